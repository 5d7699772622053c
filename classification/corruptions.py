"""Noise and blur at five severities, with the constants of CIFAR-10-C (Hendrycks & Dietterich, ICLR 2019).

The constants are those of the authors' code for images of 32x32 pixels; here they are used at every size. Images are
floats in [0, 1], and so are the results; the files of CIFAR-10-C are also rounded to 8 bits.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SEVERITIES = (1, 2, 3, 4, 5)
TRUNCATE = 4.0  # the Gaussian kernel is cut off at this many standard deviations, as in SciPy and scikit-image


def gaussian_noise(x: Tensor, std: float, random: torch.Generator) -> Tensor:
    """Add N(0, std²) to each value."""
    return (x + std * torch.randn(x.shape, generator=random, device=x.device)).clamp(0, 1)


def shot_noise(x: Tensor, photons: float, random: torch.Generator) -> Tensor:
    """Draw each value from a Poisson distribution whose mean is the value times `photons`."""
    return (torch.poisson(x * photons, generator=random) / photons).clamp(0, 1)


def impulse_noise(x: Tensor, amount: float, random: torch.Generator) -> Tensor:
    """Set a fraction `amount` of the values to 0 or 1 with equal probability (salt and pepper), in each channel."""
    hit = torch.rand(x.shape, generator=random, device=x.device) < amount
    salt = torch.rand(x.shape, generator=random, device=x.device) < 0.5
    return torch.where(hit, salt.to(x.dtype), x)


def gaussian_blur(x: Tensor, std: float, random: torch.Generator) -> Tensor:
    """Convolve with a Gaussian of standard deviation `std` in pixels, with replicate padding. Deterministic."""
    radius = int(TRUNCATE * std + 0.5)
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    weights = torch.exp(-0.5 * (offsets / std) ** 2)
    weights = (weights / weights.sum()).expand(x.shape[1], 1, 1, -1)
    padded = F.pad(x, (radius, radius, radius, radius), mode="replicate")
    rows = F.conv2d(padded, weights, groups=x.shape[1])
    return F.conv2d(rows, weights.mT, groups=x.shape[1]).clamp(0, 1)


CORRUPTIONS: dict[str, tuple[Callable[[Tensor, float, torch.Generator], Tensor], tuple[float, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
}


def corrupt(x: Tensor, name: str, severity: int, random: torch.Generator) -> Tensor:
    """Return images (B, C, H, W) in [0, 1] corrupted at a severity from 1 to 5."""
    corruption, constants = CORRUPTIONS[name]
    return corruption(x, constants[severity - 1], random)
