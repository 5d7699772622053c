"""Folders with all in them that a download of years ago, or an enemy, can leave behind."""

import io
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gan.data.datasets.folder import FolderConfig, image_names
from gan.data.decoding import CorruptImageError, read_image
from gan.runtime.errors import UserError

ROOT = Path(__file__).parents[3]
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


def encoded(format: str, mode: str, **options) -> bytes:
    image = Image.fromarray(COLORS)
    image = Image.fromarray(COLORS[..., 0].astype(np.uint16) * 256) if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


WHOLE = [encoded(format, mode) for format, modes in MODES.items() for mode in modes]


@settings(max_examples=400, deadline=None)
@given(
    data=st.sampled_from(WHOLE),
    wounds=st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), max_size=8),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_a_damaged_image_is_an_image_or_a_reason_in_a_few_words(data, wounds, kept):
    damaged = bytearray(data)
    for place, value in wounds:
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


@pytest.fixture
def zoo(tmp_path) -> Path:
    """Nine good images of all kinds, six bad ones, and what is to be passed by."""
    root = tmp_path / "zoo"
    (root / "日本 語" / "ünï\ncode 🦆").mkdir(parents=True)
    upright = Image.Exif()
    upright[0x0112] = 6  # lies on its side
    good = {
        "gray.png": encoded("PNG", "L"),
        "16 bits.png": encoded("PNG", "I;16"),
        "palette.gif": encoded("GIF", "P"),
        "cmyk.jpg": encoded("JPEG", "CMYK"),
        "turned.JPEG": encoded("JPEG", "RGB", exif=upright),
        "alpha.webp": encoded("WEBP", "RGBA"),
        "日本 語/猫.png": encoded("PNG", "RGB"),
        "日本 語/ünï\ncode 🦆/é.bmp": encoded("BMP", "RGB"),
        "'; rm -rf $HOME; --x .tif": encoded("TIFF", "RGB"),
    }
    flat = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(flat, "PNG")
    assert len(flat.getvalue()) < 150_000  # whole, and it would take 2.7 GB in colors
    bad = {
        "bad/bomb.png": flat.getvalue(),
        "bad/half.jpg": encoded("JPEG", "RGB")[:-300],
        "bad/half.png": encoded("PNG", "RGB")[:-300],
        "bad/nothing.png": b"",
        "bad/text.png": b"\x89PNG, or is it?",
    }
    (root / "bad").mkdir()
    for name, data in (good | bad).items():
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


def limited() -> None:
    """Allow the command no more memory than some images take."""
    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))


def show(root: Path, *keys: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "gan.data", "folder", f"root={root}", "resolution=8", *keys]
    command += ["--out", f"{root}.png"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, preexec_fn=limited)


def test_a_folder_of_everything_is_read_but_for_what_cannot_be(zoo):
    done = show(zoo, "skip_corrupt=true")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^  images       9 of 3 x 8 x 8$", done.stdout, re.MULTILINE)
    assert "  left out     6 that cannot be read\n    bad/bomb.png: more than 178,956,970 pixels\n" in done.stdout
    for name, reason in [("half.jpg", ".*truncated.*"), ("half.png", ".*truncated.*"), ("nothing.png", "not an image")]:
        assert re.search(rf"^    bad/{name}: {reason}$", done.stdout, re.MULTILINE)
    assert "    bad/sparse.png: 1,099,511,627,776 bytes, more than 715,827,880\n" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: left out 6 of 15 images in ")


def test_without_leave_to_skip_it_is_one_line(zoo):
    done = show(zoo)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: data: an image in .* cannot be read, bad/bomb\.png: more than .*\n", done.stderr)


def test_the_pixels_of_the_good_ones_are_right(zoo):
    with pytest.warns(UserWarning, match="left out 6 of 15"):
        data = FolderConfig(root=str(zoo), resolution=20, skip_corrupt=True).load().train
    names = [name for name in image_names(zoo, "root") if not name.startswith("bad/")]
    gray, cat = (data.images[names.index(name)] for name in ("16 bits.png", "日本 語/猫.png"))
    assert np.array_equal(gray[0], COLORS[2:22, :, 0])
    assert np.array_equal(cat, COLORS[2:22].transpose(2, 0, 1))


def test_links_from_few_folders_to_many_paths_have_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr("gan.data.datasets.folder.MAX_FOLDERS", 5000)
    for level in range(30):
        (tmp_path / f"{level}").mkdir()
        for link in "ab":
            (tmp_path / f"{level}" / link).symlink_to(f"../{level + 1}")
    with pytest.raises(UserError, match=r"^data.root: more than 5,000 folders in '.*'; do links multiply them\?"):
        image_names(tmp_path, "data.root")


@pytest.fixture
def deep(tmp_path) -> Path:
    """A tree too deep for Python's recursion, pytest's own when it cleans up too."""
    before = Path.cwd()
    os.chdir(tmp_path)
    for _ in range(1300):
        os.mkdir("d")
        os.chdir("d")
    Path("1.png").write_bytes(WHOLE[0])
    os.chdir(before)
    yield tmp_path
    subprocess.run(["rm", "-r", str(tmp_path / "d")], check=True)


def test_a_deep_tree_is_read(deep):
    assert image_names(deep, "data.root") == ["d/" * 1300 + "1.png"]


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("~nobody-of-this-name/x", "data.root: cannot tell whose home '~nobody-of-this-name/x' begins with"),
        ("x" * 5000, "data.root: cannot read 'x{500,}"),
        ("loop", "data.root: cannot read 'loop': Too many levels of symbolic links"),
    ],
)
@pytest.mark.parametrize("name", ["folder", "cifar10"])
def test_roots_that_lead_nowhere(name, root, message, tmp_path, monkeypatch, capsys):
    from gan.data.__main__ import main

    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    assert main([name, f"root={root}"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    if (name, root) != ("cifar10", "loop"):  # there it is merely no data set
        assert re.match(f"error: {message}", err)


def test_a_held_out_folder_that_is_a_loop(tmp_path):
    (tmp_path / "1.png").write_bytes(WHOLE[0])
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"^data\.test_root: cannot read '.*loop': Too many levels"):
        FolderConfig(root=str(tmp_path), test_root=str(tmp_path / "loop")).load()
