"""Decodes image files to uint8 arrays of one size, with Pillow."""

import io
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from PIL import Image, ImageOps

from gan.runtime.files import only_regular

Filter = Literal["bilinear", "bicubic"]
T = TypeVar("T")
R = TypeVar("R")

MAX_PIXELS = 89_478_485  # Pillow's own limit; a larger RGB image needs more than 256 MiB and may be an attack
MAX_BYTES = 8 * MAX_PIXELS  # of a file; no format needs more for this number of pixels
SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm"),
    *(".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The formats of these suffixes. Pillow would find others by their contents, and start Ghostscript for PostScript"""

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class CorruptImageError(Exception):
    """An image that cannot be decoded. The message is a short reason."""


def read_file(path: Path) -> bytes:
    """Return the contents of an image file. Raises CorruptImageError if it is too large, and OSError."""
    with open(path, "rb", opener=only_regular) as file:
        check_size(os.fstat(file.fileno()).st_size)
        return file.read()


def check_size(size: int) -> None:
    """Raise CorruptImageError if an image file has more bytes than any format needs."""
    if size > MAX_BYTES:
        raise CorruptImageError(f"{size:,} bytes, more than {MAX_BYTES:,}")


def read_image(
    data: bytes,
    channels: int | None,
    resolution: int | None,
    filter: Filter = "bilinear",
    as_stored: bool = False,
) -> np.ndarray:
    """Decode the first image in the contents of a file and return it as (channels, H, W) uint8.

    The image is rotated as its EXIF orientation requires and converted to gray (`channels=1`) or RGB (`channels=3`).
    Of 16-bit values the upper 8 bits are kept. Transparent pixels are blended with white. If `channels` is None, gray
    images stay gray and all others become RGB. With a `resolution`, the central square is cropped and resized; None
    keeps the size. With `as_stored`, the image is not rotated and transparency is ignored, as by torch-fidelity and
    pytorch-fid. Raises CorruptImageError if the image cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_get_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise CorruptImageError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
            image.load()
            upright = image if as_stored else ImageOps.exif_transpose(image)
            if channels is None:
                channels = 1 if upright.mode[0] in "1LI" and "A" not in upright.mode.upper() else 3
        image = _convert_mode(upright, image.format, "RGB" if channels == 3 else "L", blend=not as_stored)
        return to_array(image if resolution is None else resize(image, resolution, filter))
    except (CorruptImageError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise CorruptImageError(f"more than {2 * MAX_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow's plugins raise many types of errors
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise CorruptImageError(reason or type(error).__name__) from None


def resize(image: Image.Image, side: int, filter: Filter) -> Image.Image:
    """Crop the central square of an image and resize it to side x side with an antialiased filter.

    The result equals that of torchvision's CenterCrop and Resize for a Pillow image.
    """
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    square = image.crop((left, top, left + short, top + short))
    return square if short == side else square.resize((side, side), _FILTERS[filter])


def to_array(image: Image.Image) -> np.ndarray:
    """Return the pixels of a gray or RGB image as (C, H, W) uint8."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def parallel_map(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `function(item)` for each item in order. A thread pool computes a few results in advance."""
    threads = os.cpu_count() or 1
    pending: deque = deque()
    pool = ThreadPoolExecutor(threads)
    waits = True
    with warnings.catch_warnings():
        # Pillow warns about images that it can decode, and about large images, which are errors here.
        warnings.filterwarnings("ignore", module="PIL")
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 4 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except GeneratorExit:
            # The garbage collector may end an abandoned generator in any thread, even in one that is just starting and
            # holds the locks that joining another one needs.
            waits = False
            raise
        finally:
            pool.shutdown(waits, cancel_futures=True)


@cache
def _get_formats() -> list[str]:
    """Return those of the formats that this version of Pillow can read."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _convert_mode(image: Image.Image, format: str | None, mode: str, blend: bool) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and format in ("PNG", "PPM")):
        # Pillow would clip 16-bit gray values to 255. It keeps the upper byte of 16-bit colors, and so does this.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise CorruptImageError("32-bit pixels, whose range is unknown")
    if blend and (image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == mode else image.convert(mode)
