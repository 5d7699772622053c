"""Grids of images, for samples and previews."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from gan.runtime.files import write_atomically

COLUMNS = 8
MIN_SIDE = 48  # in pixels; smaller images are enlarged by an integer factor


def sample_grid(images: Tensor, stacked: bool, columns: int = COLUMNS) -> Tensor:
    """Return a grid (3, H, W) of uint8 images (N, C, h, w) with `columns` images per row.

    If `stacked` is True, the grid also shows the three color channels of each image separately, as gray images to the
    right in the same row, because a color image of three digits is hard to read.
    """
    from torchvision.utils import make_grid  # late, because this import takes seconds

    scale = max(1, -(-MIN_SIDE // images.shape[-1]))
    images = images.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    grid = make_grid(images, nrow=columns, padding=scale, pad_value=96)
    if not stacked:
        return grid
    planes = images.flatten(0, 1)[:, None]
    return torch.cat([grid, make_grid(planes, nrow=3 * columns, padding=scale, pad_value=96)], dim=2)


def save_png(path: Path, image: Tensor) -> None:
    """Write a uint8 image, (3, H, W) or gray (1, H, W), as a PNG file. Raises WriteError."""
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    png = Image.fromarray(pixels.contiguous().cpu().numpy())
    write_atomically(path, lambda file: png.save(file, "PNG"))
