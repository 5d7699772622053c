"""Grids of images that a person can read."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from gan.runtime.files import write_atomically

COLUMNS = 8
SMALLEST_SIDE = 48  # pixels of an image in a grid; smaller ones are enlarged by whole pixels


def sample_grid(images: Tensor, stacked: bool, columns: int = COLUMNS) -> Tensor:
    """Return one image (3, H, W) of uint8 images (N, C, h, w), `columns` of them in a row.

    With `stacked` the three color planes stand once more to the right of their image, as gray triples in the same
    rows: the blend of three digits is unreadable.
    """
    scale = max(1, -(-SMALLEST_SIDE // images.shape[-1]))
    images = images.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    grid = make_grid(images, nrow=columns, padding=scale, pad_value=96)
    if not stacked:
        return grid
    planes = images.flatten(0, 1)[:, None]
    return torch.cat([grid, make_grid(planes, nrow=3 * columns, padding=scale, pad_value=96)], dim=2)


def save_png(path: Path, image: Tensor) -> None:
    """Write a uint8 image (3, H, W), or a gray one (1, H, W); WriteError when that cannot be done."""
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    picture = Image.fromarray(pixels.contiguous().cpu().numpy())
    write_atomically(path, lambda file: picture.save(file, "PNG"))
