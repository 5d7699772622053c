"""Grids of images, for samples and previews."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gan.runtime.files import write_atomically

COLUMNS = 8
MIN_SIDE = 48  # in pixels; smaller images are enlarged by an integer factor
GRAY, WHITE = 96, (255, 255, 255)  # of the background, and of text
FONT_SIZE, LINE = 12, 16  # of text and the distance between lines, in pixels
MARGIN, GAP = 6, 24  # between images with captions, and between the first one of a row and the others, in pixels


def sample_grid(images: Tensor, stacked: bool, columns: int = COLUMNS) -> Tensor:
    """Return a grid (3, H, W) of uint8 images (N, C, h, w) with `columns` images per row.

    If `stacked` is True, the grid also shows the three color channels of each image separately, as gray images to the
    right in the same row, because a color image of three digits is hard to read.
    """
    from torchvision.utils import make_grid  # late, because this import takes seconds

    scale, images = _enlarge(images, MIN_SIDE)
    grid = make_grid(images, nrow=columns, padding=scale, pad_value=GRAY)
    if not stacked:
        return grid
    planes = images.flatten(0, 1)[:, None]
    return torch.cat([grid, make_grid(planes, nrow=3 * columns, padding=scale, pad_value=GRAY)], dim=2)


def labeled_rows(
    images: Tensor, captions: Sequence[Sequence[Sequence[str]]], titles: tuple[str, str], stacked: bool
) -> Tensor:
    """Return a figure (3, H, W) of rows of uint8 images (N, K, C, h, w), with a gap after the first one of each row.

    Below each image are the lines of its caption, cut to its width. The titles are above the first image and above the
    others. If `stacked` is True, the color channels of each image are next to it, as gray images.
    """
    tiles = images.flatten(0, 1)
    if stacked:
        tiles = torch.cat([tiles, *(tiles[:, [channel] * 3] for channel in range(3))], dim=3)
    _, tiles = _enlarge(tiles.expand(-1, 3, -1, -1), MIN_SIDE if stacked else 2 * MIN_SIDE)
    tiles = tiles.unflatten(0, images.shape[:2])
    height, width = tiles.shape[3:]
    lines = max(len(caption) for row in captions for caption in row)
    step = height + lines * LINE + 2 * MARGIN
    lefts = [MARGIN, *(MARGIN + column * (width + MARGIN) + GAP for column in range(1, images.shape[1]))]
    figure = Image.new("RGB", (lefts[-1] + width + MARGIN, LINE + MARGIN + len(images) * step), (GRAY,) * 3)
    draw, font = ImageDraw.Draw(figure), ImageFont.load_default(FONT_SIZE)
    for left, title in zip(lefts, titles, strict=False):
        draw.text((left, MARGIN), title, WHITE, font)
    for number, (row, texts) in enumerate(zip(tiles, captions, strict=True)):
        top = LINE + MARGIN + number * step
        for left, tile, caption in zip(lefts, row, texts, strict=True):
            figure.paste(_to_pil(tile), (left, top))
            for k, text in enumerate(caption):
                while font.getlength(text) > width:
                    text = f"{text.rstrip('…')[:-1]}…"
                draw.text((left + width / 2, top + height + 2 + k * LINE), text, WHITE, font, anchor="ma")
    return _to_tensor(figure)


def add_caption(image: Tensor, text: str) -> Tensor:
    """Return an image (3, H + 28, W) uint8 that has a line of text above an image (3, H, W)."""
    band = Image.new("RGB", (image.shape[2], LINE + 2 * MARGIN), (GRAY,) * 3)
    ImageDraw.Draw(band).text((MARGIN, MARGIN), text, WHITE, ImageFont.load_default(LINE))
    return torch.cat([_to_tensor(band), image], dim=1)


def _enlarge(images: Tensor, min_side: int) -> tuple[int, Tensor]:
    """Return the smallest factor that makes the sides at least `min_side`, and the images enlarged by it."""
    scale = max(1, -(-min_side // min(images.shape[-2:])))
    return scale, images.repeat_interleave(scale, dim=-2).repeat_interleave(scale, dim=-1)


def _to_pil(image: Tensor) -> Image.Image:
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    return Image.fromarray(pixels.contiguous().cpu().numpy())


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def save_png(path: Path, image: Tensor, *copies: Path) -> None:
    """Write a uint8 image, (3, H, W) or gray (1, H, W), as a PNG file and as copies of it. Raises WriteError."""
    png = BytesIO()
    _to_pil(image).save(png, "PNG")
    for target in (path, *copies):
        write_atomically(target, lambda file: file.write(png.getbuffer()))
