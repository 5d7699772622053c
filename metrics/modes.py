"""Mode coverage as a classifier sees it (stacked MNIST: Metz et al. 2017; Srivastava et al., VEEGAN, 2017)."""

import math

import torch
from torch import Tensor

CONFIDENCE = 0.9  # the probability from which an image counts as classified with confidence


def captured_modes(logits: Tensor) -> int:
    """Return how many of the K classes are the likeliest of at least one image; logits are (N, K).

    Beware: uniform noise "captures" hundreds of 1000 modes. Read it beside `kl_to_uniform` and `confident_fraction`.
    """
    return len(logits.argmax(dim=1).unique())


def kl_to_uniform(logits: Tensor) -> float:
    """Return KL(histogram of the likeliest classes || uniform) in nats; logits are (N, K)."""
    classes = logits.shape[1]
    frequency = torch.bincount(logits.argmax(dim=1), minlength=classes).double() / len(logits)
    return math.log(classes) + torch.special.xlogy(frequency, frequency).sum().item()


def confident_fraction(logits: Tensor) -> float:
    """Return the fraction of images whose likeliest class has a probability of at least 0.9; logits are (N, K)."""
    return (logits.double().softmax(dim=1).amax(dim=1) >= CONFIDENCE).double().mean().item()
