"""Mode coverage as a classifier sees it (stacked MNIST: Metz et al. 2017; Srivastava et al., VEEGAN, 2017)."""

import math

import torch
from torch import Tensor

CONFIDENCE = 0.9  # the probability from which an image counts as classified with confidence


def captured_modes(log_probabilities: Tensor) -> int:
    """Return how many of the K classes are the likeliest of at least one image; log_probabilities is (N, K).

    Beware: uniform noise "captures" hundreds of 1000 modes. Read it beside `kl_to_uniform` and `confident_fraction`.
    """
    return len(log_probabilities.argmax(dim=1).unique())


def kl_to_uniform(log_probabilities: Tensor) -> float:
    """Return KL(histogram of the likeliest classes || uniform) in nats; log_probabilities is (N, K)."""
    classes = log_probabilities.shape[1]
    frequency = torch.bincount(log_probabilities.argmax(dim=1), minlength=classes).double() / len(log_probabilities)
    return math.log(classes) + torch.special.xlogy(frequency, frequency).sum().item()


def confident_fraction(log_probabilities: Tensor) -> float:
    """Return the fraction of images whose likeliest class has a probability of at least 0.9."""
    return (log_probabilities.amax(dim=1).exp() >= CONFIDENCE).double().mean().item()
