"""Folders with damaged, unusual and malicious files."""

import io
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gan.data.datasets.folder import FolderConfig
from gan.data.decoding import CorruptImageError, read_image
from gan.data.files.folder import find_images
from gan.runtime.errors import UserError

COLORS = np.random.default_rng(0).integers(256, size=(24, 20, 3), dtype=np.uint8)
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "GIF": ("P",),
    "BMP": ("1", "L", "P", "RGB"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16"),
    "PPM": ("L", "RGB"),
    "WEBP": ("RGB", "RGBA"),
}


def encode(format: str, mode: str, **options) -> bytes:
    image = Image.fromarray(COLORS)
    image = Image.fromarray(COLORS[..., 0].astype(np.uint16) * 256) if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


VALID = [encode(format, mode) for format, modes in MODES.items() for mode in modes]


@settings(max_examples=400, deadline=None)
@given(
    data=st.sampled_from(VALID),
    changes=st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), max_size=8),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_damaged_image_gives_an_image_or_a_short_error(data, changes, kept):
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    image = reason = None
    try:
        image = read_image(bytes(damaged[: int(kept * len(damaged))]), 3, 8)
    except CorruptImageError as error:
        reason = str(error)
    if reason is None:
        assert (image.shape, image.dtype) == ((3, 8, 8), np.uint8)
    else:
        assert 0 < len(reason) < 300


@pytest.fixture(scope="module")
def mixed_folder(tmp_path_factory) -> Path:
    """Return a folder with nine valid images of different formats, six corrupt images, and files to be ignored."""
    root = tmp_path_factory.mktemp("files") / "mixed"
    (root / "日本 語" / "ünï\ncode 🦆").mkdir(parents=True)
    upright = Image.Exif()
    upright[0x0112] = 6  # rotated by 90 degrees
    valid = {
        "gray.png": encode("PNG", "L"),
        "16 bits.png": encode("PNG", "I;16"),
        "palette.gif": encode("GIF", "P"),
        "cmyk.jpg": encode("JPEG", "CMYK"),
        "rotated.JPEG": encode("JPEG", "RGB", exif=upright),
        "alpha.webp": encode("WEBP", "RGBA"),
        "日本 語/猫.png": encode("PNG", "RGB"),
        "日本 語/ünï\ncode 🦆/é.bmp": encode("BMP", "RGB"),
        "'; rm -rf $HOME; --x .tif": encode("TIFF", "RGB"),
    }
    flat = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(flat, "PNG")
    assert len(flat.getvalue()) < 150_000  # a valid file that would need 2.7 GB in RGB
    corrupt = {
        "bad/bomb.png": flat.getvalue(),
        "bad/half.jpg": encode("JPEG", "RGB")[:-300],
        "bad/half.png": encode("PNG", "RGB")[:-300],
        "bad/nothing.png": b"",
        "bad/text.png": b"\x89PNG, or is it?",
    }
    (root / "bad").mkdir()
    for name, data in (valid | corrupt).items():
        (root / name).write_bytes(data)
    with (root / "bad" / "sparse.png").open("wb") as file:
        file.truncate(2**40)
    (root / "circle").symlink_to(".")
    (root / "self").symlink_to("self")
    (root / "to nowhere").symlink_to("nowhere")
    os.mkfifo(root / "pipe.png")
    (root / ".hidden.png").write_bytes(b"")
    (root / "notes.txt").write_bytes(b"")
    return root


LIMITED_MEMORY = """\
import resource, runpy
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
runpy.run_module("gan.data", run_name="__main__")
"""


@pytest.fixture
def show(python, mixed_folder, tmp_path):
    """Return a function that shows the mixed folder in a process with limited memory."""

    def show_folder(*keys: str) -> subprocess.CompletedProcess:
        arguments = ["folder", f"root={mixed_folder}", "resolution=8", *keys, "--out", tmp_path / "grid.png"]
        return python.run("-c", LIMITED_MEMORY, *arguments)

    return show_folder


def test_valid_images_are_read_and_corrupt_images_are_skipped(show):
    done = show("skip_corrupt=true")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^  images       9 of 3 x 8 x 8$", done.stdout, re.MULTILINE)
    assert "  skipped      6 unreadable files\n    bad/bomb.png: more than 178,956,970 pixels\n" in done.stdout
    for name, reason in [("half.jpg", ".*truncated.*"), ("half.png", ".*truncated.*"), ("nothing.png", "not an image")]:
        assert re.search(rf"^    bad/{name}: {reason}$", done.stdout, re.MULTILINE)
    assert "    bad/sparse.png: 1,099,511,627,776 bytes, more than 715,827,880\n" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: skipped 6 of 15 images in ")


def test_corrupt_image_is_a_one_line_error_by_default(show):
    done = show()
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: data: an image in .* cannot be read: bad/bomb\.png: more than .*\n", done.stderr)


def test_pixels_of_valid_images(mixed_folder):
    with pytest.warns(UserWarning, match="skipped 6 of 15"):
        data = FolderConfig(root=str(mixed_folder), resolution=20, skip_corrupt=True).load().train
    names = [name for name in find_images(mixed_folder, "root") if not name.startswith("bad/")]
    gray, cat = (data.images[names.index(name)] for name in ("16 bits.png", "日本 語/猫.png"))
    assert np.array_equal(gray[0], COLORS[2:22, :, 0])
    assert np.array_equal(cat, COLORS[2:22].transpose(2, 0, 1))


def test_exponentially_many_paths_by_links_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("gan.data.files.folder.MAX_FOLDERS", 5000)
    for level in range(30):
        (tmp_path / f"{level}").mkdir()
        for link in "ab":
            (tmp_path / f"{level}" / link).symlink_to(f"../{level + 1}")
    with pytest.raises(UserError, match=r"^data.root: more than 5,000 folders in '.*'; check its symbolic links"):
        find_images(tmp_path, "data.root")


@pytest.fixture
def deep(tmp_path) -> Path:
    """Yield a tree that is deeper than Python's recursion limit, and delete it, which pytest could not."""
    previous = Path.cwd()
    os.chdir(tmp_path)
    for _ in range(1300):
        os.mkdir("d")
        os.chdir("d")
    Path("1.png").write_bytes(VALID[0])
    os.chdir(previous)
    yield tmp_path
    subprocess.run(["rm", "-r", str(tmp_path / "d")], check=True)


def test_deep_tree(deep):
    assert find_images(deep, "data.root") == ["d/" * 1300 + "1.png"]


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("~nobody-of-this-name/x", "root: the home folder in '~nobody-of-this-name/x' is unknown"),
        ("x" * 5000, "root: cannot read 'x{500,}"),
        ("loop", "root: cannot read 'loop': Too many levels of symbolic links"),
    ],
)
@pytest.mark.parametrize("name", ["folder", "cifar10"])
def test_invalid_root_is_a_one_line_error(name, root, message, tmp_path, monkeypatch, capsys):
    from gan.data.__main__ import main

    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    assert main([name, f"root={root}"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    if (name, root) != ("cifar10", "loop"):  # here the error is only that the dataset is missing
        assert re.match(f"error: {message}", err)


def test_held_out_folder_that_is_a_circular_link(tmp_path):
    (tmp_path / "1.png").write_bytes(VALID[0])
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"^data\.held_out: cannot read '.*loop': Too many levels"):
        FolderConfig(root=str(tmp_path), held_out=str(tmp_path / "loop")).load()
