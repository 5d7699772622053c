"""Noise and blur at five severities, with the constants of CIFAR-10-C (Hendrycks & Dietterich, ICLR 2019).

They are those of the authors' code for images of 32x32 pixels, and are used at every size. Images are floats in
[0, 1] and stay there; CIFAR-10-C's own files are rounded to bytes besides.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SEVERITIES = (1, 2, 3, 4, 5)
TRUNCATE = 4.0  # deviations at which the Gaussian ends, as in SciPy and scikit-image


def gaussian_noise(x: Tensor, deviation: float, random: torch.Generator) -> Tensor:
    """Add N(0, deviation²) to each value."""
    return (x + deviation * torch.randn(x.shape, generator=random, device=x.device)).clamp(0, 1)


def shot_noise(x: Tensor, photons: float, random: torch.Generator) -> Tensor:
    """Draw each value from a Poisson distribution: white is `photons` photons."""
    return (torch.poisson(x * photons, generator=random) / photons).clamp(0, 1)


def impulse_noise(x: Tensor, amount: float, random: torch.Generator) -> Tensor:
    """Set that share of the values to 0 or 1, as likely: salt and pepper, each channel by itself."""
    hit = torch.rand(x.shape, generator=random, device=x.device) < amount
    salt = torch.rand(x.shape, generator=random, device=x.device) < 0.5
    return torch.where(hit, salt.to(x.dtype), x)


def gaussian_blur(x: Tensor, deviation: float, random: torch.Generator) -> Tensor:
    """Convolve with a Gaussian of that deviation in pixels; the border is repeated. Nothing is random."""
    radius = int(TRUNCATE * deviation + 0.5)
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    weights = torch.exp(-0.5 * (offsets / deviation) ** 2)
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
    """Return images (B, C, H, W) in [0, 1] after a corruption at a severity from 1 to 5."""
    corruption, constants = CORRUPTIONS[name]
    return corruption(x, constants[severity - 1], random)
