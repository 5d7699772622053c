"""Differentiable augmentation of real and fake images (DiffAugment: Zhao et al., NeurIPS 2020), and flips.

The operations and their constants are those of the authors' code (github.com/mit-han-lab/data-efficient-gans), which
has no flips.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gan.runtime.distributed import draw_shard

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
AugmentationName = Literal["color", "translation", "cutout", "flip"]


def augment(x: Tensor, names: Sequence[str], random: torch.Generator, ada: Augmentation | None = None) -> Tensor:
    """Return images (B, C, H, W) in [-1, 1] after the named augmentations, which are random for each image.

    The images are this process's shard of a batch. `ada` is the augmentation of this name, which has a state.
    """
    for name in names:
        for step in (ada,) if ada is not None and name == "ada" else AUGMENTATIONS[name]:
            x = step(x, random)
    return x


def brightness(x: Tensor, random: torch.Generator) -> Tensor:
    """Add a number from U(-0.5, 0.5) to each image."""
    return x + (_uniform(x, random) - 0.5)


def saturation(x: Tensor, random: torch.Generator) -> Tensor:
    """Scale the difference of each pixel from its mean over the channels by a factor from U(0, 2)."""
    mean = x.mean(dim=1, keepdim=True)
    return (x - mean) * (2 * _uniform(x, random)) + mean


def contrast(x: Tensor, random: torch.Generator) -> Tensor:
    """Scale the difference of each image from its mean by a factor from U(0.5, 1.5)."""
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return (x - mean) * (_uniform(x, random) + 0.5) + mean


def translation(x: Tensor, random: torch.Generator) -> Tensor:
    """Shift by up to 1/8 of the side along each axis, with zero padding."""
    height, width = x.shape[2:]
    max_h, max_w = int(height / 8 + 0.5), int(width / 8 + 0.5)
    rows = torch.arange(height, device=x.device) + _integers(x, random, 2 * max_h + 1)
    cols = torch.arange(width, device=x.device) + _integers(x, random, 2 * max_w + 1)
    padded = F.pad(x, (max_w, max_w, max_h, max_h))
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)


def cutout(x: Tensor, random: torch.Generator) -> Tensor:
    """Set a square with half the side length at a random position to zero; it may extend beyond the edges."""
    height, width = x.shape[2:]
    side_h, side_w = int(height / 2 + 0.5), int(width / 2 + 0.5)
    top = _integers(x, random, height + 1 - side_h % 2) - side_h // 2
    left = _integers(x, random, width + 1 - side_w % 2) - side_w // 2
    rows = torch.arange(height, device=x.device)
    cols = torch.arange(width, device=x.device)
    in_rows = (rows >= top) & (rows < top + side_h)  # (B, H)
    in_cols = (cols >= left) & (cols < left + side_w)  # (B, W)
    return x.masked_fill((in_rows[:, None, :, None] & in_cols[:, None, None, :]), 0.0)


def flip(x: Tensor, random: torch.Generator) -> Tensor:
    """Flip each image horizontally with probability 1/2."""
    return torch.where(_uniform(x, random) < 0.5, x.flip(3), x)


def _uniform(x: Tensor, random: torch.Generator) -> Tensor:
    return draw_shard(torch.rand, (len(x), 1, 1, 1), random, dtype=x.dtype)


def _integers(x: Tensor, random: torch.Generator, high: int) -> Tensor:
    return draw_shard(torch.randint, (len(x), 1), random, high=high)


AUGMENTATIONS: dict[str, tuple[Augmentation, ...]] = {
    "color": (brightness, saturation, contrast),
    "translation": (translation,),
    "cutout": (cutout,),
    "flip": (flip,),
}
