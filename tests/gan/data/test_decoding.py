import io
import re
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from gan.data.decoding import CorruptImageError, in_order, read_image, resize, to_array

SIDE = 8


def noise(*shape: int, dtype=np.uint8, below: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(below, size=shape, dtype=dtype)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def read(data: bytes, channels: int = 3) -> np.ndarray:
    return read_image(data, channels, SIDE)


def test_an_image_of_the_right_size_keeps_its_pixels():
    pixels = noise(SIDE, SIDE, 3)
    assert np.array_equal(read(encoded(Image.fromarray(pixels))), pixels.transpose(2, 0, 1))
    assert np.array_equal(read(encoded(Image.fromarray(pixels[..., 0])), 1), pixels[None, ..., 0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(orientation):
    pixels = noise(SIDE, SIDE)
    # What a camera stores so that the orientation's turn gives back `pixels` (EXIF 2.3, section 4.6.4).
    stored = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.T,
        6: np.rot90(pixels),
        7: pixels[::-1, ::-1].T,
        8: np.rot90(pixels, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(read(data, 1)[0], pixels)


def test_of_16_bits_the_upper_ones_are_kept():
    pixels = noise(SIDE, SIDE, dtype=np.uint16, below=65536)
    for format in ("PNG", "TIFF"):
        assert np.array_equal(read(encoded(Image.fromarray(pixels), format), 1)[0], pixels // 256)


def test_gray_becomes_equal_colors_and_colors_become_luma():
    gray = noise(SIDE, SIDE)
    assert np.array_equal(read(encoded(Image.fromarray(gray))), np.stack([gray] * 3))
    colors = noise(SIDE, SIDE, 3)
    luma = colors @ [0.299, 0.587, 0.114]  # ITU-R BT.601
    assert np.abs(read(encoded(Image.fromarray(colors)), 1)[0] - luma).max() <= 1


def test_black_and_white_becomes_0_and_255():
    bits = noise(SIDE, SIDE, below=2).astype(bool)
    assert np.array_equal(read(encoded(Image.fromarray(bits)), 1)[0], bits * 255)


def test_cmyk_becomes_rgb():
    ink = noise(SIDE, SIDE, 4)
    image = Image.frombytes("CMYK", (SIDE, SIDE), ink.tobytes())
    c, m, y, k = (255 - ink.astype(float)).transpose(2, 0, 1)
    expected = np.stack([c * k, m * k, y * k]) / 255
    assert np.abs(read(encoded(image, "TIFF")) - expected).max() <= 2


def test_palettes_give_their_colors():
    palette = noise(16, 3)
    index = noise(SIDE, SIDE, below=16)
    image = Image.fromarray(index)
    image.putpalette(palette.tobytes())
    for format in ("PNG", "GIF"):
        assert np.array_equal(read(encoded(image, format)), palette[index].transpose(2, 0, 1))


def test_transparent_parts_are_white():
    rgba = noise(SIDE, SIDE, 4)
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    alpha = rgba[..., 3:] / 255
    expected = (alpha * rgba[..., :3] + (1 - alpha) * 255).transpose(2, 0, 1)
    result = read(encoded(Image.fromarray(rgba)))
    assert np.abs(result - expected).max() <= 1
    assert (result[:, 0] == 255).all()
    la = Image.fromarray(rgba).convert("LA")
    assert (read(encoded(la), 1)[:, 0] == 255).all()


def test_a_transparent_palette_entry_is_white():
    image = Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) % 4)
    image.putpalette(bytes([10, 20, 30] * 4))
    result = read(encoded(image, transparency=2))
    assert (result[0][:, 2] == 255).all()
    assert (result[0][:, 1] == 10).all()


@pytest.mark.parametrize("size", [(40, 30), (30, 41), (64, 64), (5, 9)])
@pytest.mark.parametrize(
    ("name", "mode"), [("bilinear", InterpolationMode.BILINEAR), ("bicubic", InterpolationMode.BICUBIC)]
)
def test_images_are_cropped_and_resized_as_by_torchvision(size, name, mode):
    image = Image.fromarray(noise(size[1], size[0], 3))
    # torchvision rounds half a pixel to the even side, we go to the left.
    short = min(size)
    if any((side - short) % 2 for side in size):
        left, top = ((side - short) // 2 for side in size)
        square = image.crop((left, top, left + short, top + short))
    else:
        square = CenterCrop(short)(image)
    expected = Compose([Resize((SIDE, SIDE), interpolation=mode)])(square)
    assert np.array_equal(to_array(resize(image, SIDE, name)), to_array(expected))


def truncated(format: str) -> bytes:
    data = encoded(Image.fromarray(noise(50, 50, 3)), format)
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image"),
        (b"<html></html>", "not an image"),
        (truncated("PNG"), "truncated"),
        (truncated("JPEG"), "truncated"),
        (encoded(Image.fromarray(noise(50, 50, 3)))[:20], "."),
        (encoded(Image.fromarray(noise(9, 9).astype(np.float32)), "TIFF"), "32-bit pixels have no known range"),
        (encoded(Image.fromarray(noise(9, 9).astype(np.int32)), "TIFF"), "32-bit pixels have no known range"),
    ],
    ids=["empty", "html", "half a PNG", "half a JPEG", "a header", "floats", "32 bits"],
)
def test_what_is_no_image_says_why(data, reason):
    with pytest.raises(CorruptImageError, match=reason):
        read(data)


def png_that_claims(width: int, height: int) -> bytes:
    """A gray PNG of this size, as far as its header says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(30_000, 30_000), (10_000, 12_000)])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(size):
    def refusal(data: bytes) -> str:
        with pytest.raises(CorruptImageError) as error:
            read(data)
        return str(error.value)

    (reason,) = in_order(refusal, [png_that_claims(*size)])
    assert re.fullmatch(r"(10000 x 12000 pixels, )?more than [0-9,]+( pixels)?", reason)


def test_results_come_in_order_however_long_they_take():
    def slow(i: int) -> int:
        time.sleep(0.002 * (i % 3 == 0))
        return i

    assert list(in_order(slow, range(50))) == list(range(50))


def test_only_a_few_items_are_computed_ahead():
    taken = []
    results = in_order(lambda i: i, (taken.append(i) or i for i in range(10_000)))
    next(results)
    assert len(taken) < 1000
    threads = threading.active_count()
    results.close()
    assert threading.active_count() < threads


def test_an_error_comes_through_and_ends_the_threads():
    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda i: 1 // (5 - i), range(100)))
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("I;16", 1), ("LA", 3), ("P", 3), ("RGB", 3), ("CMYK", 3)]
)
def test_an_image_can_keep_its_size_and_its_gray(mode, channels):
    format = {"CMYK": "TIFF"}.get(mode, "PNG")
    array = read_image(encoded(Image.new(mode, (7, 5)), format), None, None)
    assert array.shape == (channels, 5, 7)
