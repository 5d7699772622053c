import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan.data import ImageData
from gan.data.__main__ import describe_classes, main, pixel_statistics


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def images(tmp_path) -> Path:
    """Return a folder with images of known gray levels in two classes."""
    for name, level in (("cat/1", 0), ("cat/2", 100), ("dog/1", 200)):
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(path)
    return tmp_path / "images"


def test_description_and_grid(images, capsys):
    assert main(["folder", f"root={images}", "resolution=8", "--out", "grid.png"]) == 0
    out = capsys.readouterr().out
    assert f"  from         {images}\n  cached in    {images.parent}/cache/convnorm-gan/datasets/folder-train-" in out
    assert "  images       3 of 3 x 8 x 8\n  classes      2: cat 2, dog 1\n" in out
    assert "  mean         100.000  100.000  100.000 " in out
    assert "  std          81.650  81.650  81.650\n" in out
    assert re.search(r"^  fingerprint  [0-9a-f]{32}$", out, re.MULTILINE)
    assert "folder, held out\n  none\n" in out
    assert "skipped" not in out
    with Image.open("grid.png") as grid:
        assert set(np.asarray(grid).flatten().tolist()) == {0, 100, 200, 96}


def test_skipped_files_are_listed(images, capsys):
    (images / "cat" / "0.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="skipped 1 of 4"):
        assert main(["folder", f"root={images}", "skip_corrupt=true"]) == 0
    assert "  skipped      1 unreadable files\n    cat/0.png: not an image\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"the following arguments are required: NAME \(see --help\)"),
        (["fodler"], "unknown dataset 'fodler' .*did you mean 'folder'"),
        (["folder", "resolutoin=9"], r"resolutoin: unknown key .*did you mean 'resolution'"),
        (["folder", "channels=2"], "channels: must be one of 3, 1"),
        (["folder", "root=gone"], "error: root: cannot read 'gone': No such file"),
        (["folder", "root=x/data.root/data.root"], "error: root: cannot read 'x/data.root/data.root': No such file"),
        (["folder", "root=.", "held_out=x", "test_fraction=0.5"], "error: held_out and test_fraction cannot be"),
        (["generated"], "error: run is missing: the dataset `generated` needs"),
        (["cifar10"], "python -m gan.data cifar10 root=data download=true`, add download=true, or set root to its"),
        (["digits", "--out", "taken.png"], "--out taken.png already exists; choose another name"),
        (["digits", "--out", "x.jpg"], "--out x.jpg: the name must end in .png"),
        (["digits", "--out", "taken.png/below.png"], "cannot write --out taken.png/below.png: "),
    ],
)
def test_user_error_is_one_line_with_exit_code_2(arguments, message, capsys):
    Path("taken.png").write_bytes(b"mine")
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert re.match("error: ", err)
    assert re.fullmatch(rf".*{message}.*\n", err), err
    assert Path("taken.png").read_bytes() == b"mine"


def test_help_describes_the_shared_keys_once(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert [text.count(f"\n  {key}  (default") for key in ("subset", "root", "download")] == [1, 2, 3]


def test_no_file_is_written_by_default(tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["digits", "resolution=8"]) == 0
    assert "images       1,437 of 1 x 8 x 8" in capsys.readouterr().out
    assert not list((tmp_path / "here").iterdir())


def test_help_lists_the_keys_of_every_dataset(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for text in ("'stl10'", "'folder'", "  skip_corrupt  (default: false)\n", "  filter  (default: bilinear)\n"):
        assert text in out


def test_pixel_statistics(monkeypatch):
    monkeypatch.setattr("gan.data.__main__.CHUNK", 7)
    images = torch.randint(256, (30, 3, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mean, std = pixel_statistics(images)
    flat = images.double().transpose(0, 1).flatten(1)
    assert torch.allclose(mean, flat.mean(dim=1), rtol=1e-12)
    assert torch.allclose(std, flat.std(dim=1, correction=0), rtol=1e-12)


def test_describe_classes():
    labels = torch.arange(250) % 100
    images = torch.zeros(250, 1, 1, 1, dtype=torch.uint8)
    assert describe_classes(ImageData(images, labels, 100)) == "100 with 2 to 3 images each"
    assert describe_classes(ImageData(images, labels * 0, 1)) == "no labels"
    assert describe_classes(ImageData(images, labels % 2, 2)) == "2: 0 125, 1 125"


def test_command_in_a_process_of_its_own(tmp_path, python):
    done = python.run("-m", "gan.data", "digits", "resolution=8", "--out", "digits.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "digits.png").exists()
