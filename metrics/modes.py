"""Mode coverage according to a classifier (stacked MNIST: Metz et al. 2017; Srivastava et al., VEEGAN, 2017).

All functions raise ValueError for logits that `metrics.checks` refuses.
"""

import math

import torch
from torch import Tensor

from metrics.checks import check_logits

MIN_CONFIDENCE = 0.9


def captured_modes(logits: Tensor) -> int:
    """Return the number of classes that are predicted for at least one image. Logits are (N, K).

    Uniform noise can also capture hundreds of 1000 modes, so report `kl_to_uniform` and `confident_fraction` with it.
    """
    check_logits(logits)
    return len(logits.argmax(dim=1).unique())


def kl_to_uniform(logits: Tensor) -> float:
    """Return KL(histogram of the predicted classes || uniform) in nats. Logits are (N, K)."""
    check_logits(logits)
    classes = logits.shape[1]
    frequency = torch.bincount(logits.argmax(dim=1), minlength=classes).double() / len(logits)
    return math.log(classes) + torch.special.xlogy(frequency, frequency).sum().item()


def confident_fraction(logits: Tensor) -> float:
    """Return the fraction of images whose predicted class has a probability of at least 0.9. Logits are (N, K)."""
    check_logits(logits)
    return (logits.double().softmax(dim=1).amax(dim=1) >= MIN_CONFIDENCE).double().mean().item()
