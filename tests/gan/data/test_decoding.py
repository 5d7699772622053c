import io
import os
import re
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from gan.data.decoding import CorruptImageError, parallel_map, read_file, read_image, resize, to_array

SIDE = 8


def random_array(*shape: int, dtype=np.uint8, high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(high, size=shape, dtype=dtype)


def encode(image: Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def read(data: bytes, channels: int = 3) -> np.ndarray:
    return read_image(data, channels, SIDE)


def test_image_of_the_requested_size_keeps_its_pixels():
    pixels = random_array(SIDE, SIDE, 3)
    assert np.array_equal(read(encode(Image.fromarray(pixels))), pixels.transpose(2, 0, 1))
    assert np.array_equal(read(encode(Image.fromarray(pixels[..., 0])), 1), pixels[None, ..., 0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    pixels = random_array(SIDE, SIDE)
    # What a camera stores so that the orientation's rotation returns `pixels` (EXIF 2.3, section 4.6.4).
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
    data = encode(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(read(data, 1)[0], pixels)


def test_16_bit_images_keep_the_upper_8_bits():
    pixels = random_array(SIDE, SIDE, dtype=np.uint16, high=65536)
    for format in ("PNG", "TIFF"):
        assert np.array_equal(read(encode(Image.fromarray(pixels), format), 1)[0], pixels // 256)


def test_conversion_between_gray_and_color():
    gray = random_array(SIDE, SIDE)
    assert np.array_equal(read(encode(Image.fromarray(gray))), np.stack([gray] * 3))
    colors = random_array(SIDE, SIDE, 3)
    luma = colors @ [0.299, 0.587, 0.114]  # ITU-R BT.601
    assert np.abs(read(encode(Image.fromarray(colors)), 1)[0] - luma).max() <= 1


def test_1_bit_images_become_0_and_255():
    bits = random_array(SIDE, SIDE, high=2).astype(bool)
    assert np.array_equal(read(encode(Image.fromarray(bits)), 1)[0], bits * 255)


def test_cmyk_becomes_rgb():
    ink = random_array(SIDE, SIDE, 4)
    image = Image.frombytes("CMYK", (SIDE, SIDE), ink.tobytes())
    c, m, y, k = (255 - ink.astype(float)).transpose(2, 0, 1)
    expected = np.stack([c * k, m * k, y * k]) / 255
    assert np.abs(read(encode(image, "TIFF")) - expected).max() <= 2


def test_palette_images():
    palette = random_array(16, 3)
    index = random_array(SIDE, SIDE, high=16)
    image = Image.fromarray(index)
    image.putpalette(palette.tobytes())
    for format in ("PNG", "GIF"):
        assert np.array_equal(read(encode(image, format)), palette[index].transpose(2, 0, 1))


def test_transparent_pixels_are_blended_with_white():
    rgba = random_array(SIDE, SIDE, 4)
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    alpha = rgba[..., 3:] / 255
    expected = (alpha * rgba[..., :3] + (1 - alpha) * 255).transpose(2, 0, 1)
    result = read(encode(Image.fromarray(rgba)))
    assert np.abs(result - expected).max() <= 1
    assert (result[:, 0] == 255).all()
    la = Image.fromarray(rgba).convert("LA")
    assert (read(encode(la), 1)[:, 0] == 255).all()


def test_transparent_palette_entry_is_white():
    image = Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) % 4)
    image.putpalette(bytes([10, 20, 30] * 4))
    result = read(encode(image, transparency=2))
    assert (result[0][:, 2] == 255).all()
    assert (result[0][:, 1] == 10).all()


@pytest.mark.parametrize("size", [(40, 30), (30, 41), (64, 64), (5, 9)])
@pytest.mark.parametrize(
    ("name", "mode"), [("bilinear", InterpolationMode.BILINEAR), ("bicubic", InterpolationMode.BICUBIC)]
)
def test_crop_and_resize_equal_torchvision(size, name, mode):
    image = Image.fromarray(random_array(size[1], size[0], 3))
    # For an odd margin torchvision rounds to even; resize rounds down.
    short = min(size)
    if any((side - short) % 2 for side in size):
        left, top = ((side - short) // 2 for side in size)
        square = image.crop((left, top, left + short, top + short))
    else:
        square = CenterCrop(short)(image)
    expected = Compose([Resize((SIDE, SIDE), interpolation=mode)])(square)
    assert np.array_equal(to_array(resize(image, SIDE, name)), to_array(expected))


def truncated(format: str) -> bytes:
    data = encode(Image.fromarray(random_array(50, 50, 3)), format)
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image"),
        (b"<html></html>", "not an image"),
        (truncated("PNG"), "truncated"),
        (truncated("JPEG"), "truncated"),
        (encode(Image.fromarray(random_array(50, 50, 3)))[:20], "."),
        (
            encode(Image.fromarray(random_array(9, 9).astype(np.float32)), "TIFF"),
            "range is unknown",
        ),
        (encode(Image.fromarray(random_array(9, 9).astype(np.int32)), "TIFF"), "range is unknown"),
    ],
    ids=["empty", "html", "half a PNG", "half a JPEG", "a header", "floats", "32 bits"],
)
def test_corrupt_image_error_has_the_reason(data, reason):
    with pytest.raises(CorruptImageError, match=reason):
        read(data)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) (w) file\n%%EOF\n"


@pytest.mark.parametrize(
    ("plugin", "data"),
    [
        ("EpsImagePlugin.EpsImageFile", POSTSCRIPT),
        ("IptcImagePlugin.IptcImageFile", b"\x1c\x03\x00\x00\x02\x01\x01"),
        ("PcxImagePlugin.PcxImageFile", encode(Image.new("L", (9, 9)), "PCX")),
        ("PsdImagePlugin.PsdImageFile", b"8BPS\x00\x01" + bytes(20)),
    ],
    ids=["PostScript", "IPTC", "PCX", "Photoshop"],
)
def test_only_the_formats_of_the_suffixes_are_read(plugin, data, monkeypatch):
    """Pillow starts Ghostscript for PostScript, and writes temporary files for some other formats."""
    Image.init()
    monkeypatch.setattr(f"PIL.{plugin}._open", lambda self: pytest.fail("the plugin was used"))
    with pytest.raises(CorruptImageError, match="not an image"):
        read(data)


@pytest.mark.parametrize("format", ["AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_formats_of_the_suffixes_are_read_whatever_their_suffix_is(format):
    Image.init()
    if format not in Image.SAVE:
        pytest.skip(f"Pillow was built without {format}")
    assert read(encode(Image.new("RGB", (SIDE, SIDE), "white"), format)).min() >= 250


def test_image_that_has_become_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(OSError, match="not a regular file"):
        read_file(tmp_path / "a.png")


def make_png_header(width: int, height: int) -> bytes:
    """Return a gray PNG whose header has this size, with only 100 bytes of data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(30_000, 30_000), (10_000, 12_000)])
def test_image_with_too_many_pixels_is_not_decoded(size):
    def get_error(data: bytes) -> str:
        with pytest.raises(CorruptImageError) as error:
            read(data)
        return str(error.value)

    (reason,) = parallel_map(get_error, [make_png_header(*size)])
    assert re.fullmatch(r"(10000 x 12000 pixels, )?more than [0-9,]+( pixels)?", reason)


def test_parallel_map_keeps_the_order():
    def slow(i: int) -> int:
        time.sleep(0.002 * (i % 3 == 0))
        return i

    assert list(parallel_map(slow, range(50))) == list(range(50))


def test_parallel_map_computes_few_items_in_advance():
    taken = []
    results = parallel_map(lambda i: i, (taken.append(i) or i for i in range(10_000)))
    next(results)
    assert len(taken) < 1000
    threads = threading.active_count()
    results.close()
    deadline = time.monotonic() + 60
    while threading.active_count() >= threads:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.skipif(not hasattr(threading, "_shutdown_locks_lock"), reason="this Python joins threads without the lock")
def test_abandoned_parallel_map_can_end_in_any_thread():
    """The garbage collector may run in a thread that is just starting, which holds this lock."""
    results = parallel_map(lambda i: i, range(100))
    next(results)
    ended = threading.Event()
    with threading._shutdown_locks_lock:
        threading._start_new_thread(lambda: (results.close(), ended.set()), ())  # not by Thread.start, which takes it
        assert ended.wait(20)


def test_parallel_map_raises_errors_and_ends_its_threads():
    threads = set(threading.enumerate())  # those of earlier tests may end meanwhile
    with pytest.raises(ZeroDivisionError):
        list(parallel_map(lambda i: 1 // (5 - i), range(100)))
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("I;16", 1), ("LA", 3), ("P", 3), ("RGB", 3), ("CMYK", 3)]
)
def test_image_keeps_its_size_and_channels_by_default(mode, channels):
    format = {"CMYK": "TIFF"}.get(mode, "PNG")
    array = read_image(encode(Image.new(mode, (7, 5)), format), None, None)
    assert array.shape == (channels, 5, 7)
