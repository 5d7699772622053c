"""Image files -> uint8 arrays of one size, with Pillow."""

import io
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from PIL import Image, ImageOps

Filter = Literal["bilinear", "bicubic"]
T = TypeVar("T")
R = TypeVar("R")

MAX_PIXELS = 89_478_485  # Pillow's own limit: a larger image takes 256 MiB in colors, and may be an attack
MAX_BYTES = 8 * MAX_PIXELS  # of a file: no format takes more for so many pixels
SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm"),
    *(".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class CorruptImageError(Exception):
    """Bytes that are no image that can be read; the message is the reason in a few words."""


def read_file(path: Path) -> bytes:
    """Return the bytes of an image file; CorruptImageError when they are too many for one, OSError as ever."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise CorruptImageError(f"{size:,} bytes, more than {MAX_BYTES:,}")
    return path.read_bytes()


def read_image(data: bytes, channels: int | None, resolution: int | None, filter: Filter = "bilinear") -> np.ndarray:
    """Return the first image in the bytes of a file as (channels, H, W) uint8.

    It is turned as its EXIF orientation says, brought to 8 bits (of 16 the upper ones) and to gray or RGB (CMYK
    and palettes too), transparent parts over white. With a resolution it is cropped to the square in its middle and
    resized; None keeps its size, as `channels` None keeps gray images gray. CorruptImageError when that cannot be done.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise CorruptImageError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
            image.load()
            upright = ImageOps.exif_transpose(image)
            if channels is None:
                channels = 1 if upright.mode[0] in "1LI" and "A" not in upright.mode.upper() else 3
        image = _to_mode(upright, image.format, "RGB" if channels == 3 else "L")
        return to_array(image if resolution is None else resize(image, resolution, filter))
    except (CorruptImageError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise CorruptImageError(f"more than {2 * MAX_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow's plugins raise many kinds
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise CorruptImageError(reason or type(error).__name__) from None


def resize(image: Image.Image, side: int, filter: Filter) -> Image.Image:
    """Return the square in the middle of an image, resized to side x side with an antialiased filter.

    These are the pixels that torchvision's CenterCrop and Resize make of a Pillow image.
    """
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    square = image.crop((left, top, left + short, top + short))
    return square if short == side else square.resize((side, side), _FILTERS[filter])


def to_array(image: Image.Image) -> np.ndarray:
    """Return the pixels of a gray or RGB image as (C, H, W) uint8."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def in_order(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield function(item) of each item in order, computed by a pool of threads, a few items ahead."""
    threads = os.cpu_count() or 1
    pending: deque = deque()
    with ThreadPoolExecutor(threads) as pool, warnings.catch_warnings():
        # Pillow warns of what it can live with, a thumbnail cut short, say; large images are an error above.
        warnings.filterwarnings("ignore", module="PIL")
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 4 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _to_mode(image: Image.Image, format: str | None, mode: str) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and format in ("PNG", "PPM")):
        # Pillow would clip 16 bits at 255; of 16-bit colors it keeps the upper byte, as here.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise CorruptImageError("its 32-bit pixels have no known range")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == mode else image.convert(mode)
