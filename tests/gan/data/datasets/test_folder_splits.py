"""Folders of training and held-out images: which images are read for which split, and with which labels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan.data.datasets.folder import FolderConfig
from gan.options.loader import load_config
from gan.runtime.errors import UserError


@pytest.fixture
def write(tmp_path):
    """Return a function that writes images to a folder; the gray level of each is its number, 1, 2, ..."""

    def write_images(*names: str) -> Path:
        for number, name in enumerate(names, start=1):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), number, np.uint8)).save(path, "PNG")
        return tmp_path

    return write_images


def load(root: Path, **options):
    """Return (gray levels, labels) of the training and the held-out images, and the names of the training classes."""
    splits = FolderConfig(**{"root": str(root), "resolution": 8, "channels": 1} | options).load()
    parts = []
    for data in (splits.train, splits.held_out):
        parts.append(None if data is None else (data.images[:, 0, 0, 0].tolist(), data.labels.tolist()))
    return *parts, splits.train.class_names


@pytest.mark.parametrize("train", ["train", "training", "Train"])
@pytest.mark.parametrize("held_out", ["val", "valid", "validation", "test", "testing", "TEST"])
def test_splits_are_not_classes(write, capsys, train, held_out):
    root = write(*(f"{split}/{name}.png" for split in (train, held_out) for name in ("cat/1", "dog/1")))
    assert load(root, conditional=True) == (([1, 2], [0, 1]), ([3, 4], [0, 1]), ("cat", "dog"))
    expected = f"data: 2 training images of 2 classes in '{root / train}', 2 held-out images in '{root / held_out}'\n"
    assert capsys.readouterr().out == expected


def test_validation_images_are_held_out_if_there_are_test_images(write, capsys):
    root = write("train/a/1.png", "val/a/1.png", "test/a/1.png")
    assert load(root) == (([1], [0]), ([2], [0]), ("a",))
    assert capsys.readouterr().out.endswith(f"held-out images in '{root / 'val'}'; 'test' is not read\n")
    assert load(root, held_out=str(root / "test")) == (([1], [0]), ([3], [0]), ("a",))


def test_training_folder_alone(write):
    root = write("train/a/1.png", "train/b/1.png")
    assert load(root) == (([1, 2], [0, 1]), None, ("a", "b"))
    with pytest.raises(UserError, match="holds out"):
        load(root, test_fraction=1e-9)


def test_splits_without_classes(write, capsys):
    root = write("train/1.png", "train/x/2.png", "test/1.png")
    assert load(root) == (([1, 2], [0, 0]), ([3], [0]), ())
    assert "2 training images of no classes" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"train/1.png' has no class"):
        load(root, conditional=True)


def test_flat_held_out_images_have_no_labels(write):
    root = write("train/a/1.png", "train/b/1.png", "val/1.png")
    splits = FolderConfig(root=str(root), resolution=8).load()
    assert (splits.train.num_classes, splits.held_out.num_classes) == (2, 1)


@pytest.mark.parametrize("names", [("train", "car"), ("trains", "valves"), ("car",)])
def test_classes_with_names_of_splits(write, capsys, names):
    root = write(*(f"{name}/1.png" for name in names))
    assert load(root)[2] == tuple(sorted(names))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/a/1", "val/a/1", "extra/a/1"), r"the splits 'train' and 'val', but also 'extra'; move it away"),
        (("train/a/1", "val/a/1", "preview"), r"but also 'preview\.png'"),
        (("train/a/1", "training/a/1"), r"both 'train' and 'training' look like its train images"),
        (("train/a/1", "val/a/1", "valid/a/1"), r"both 'val' and 'valid' look like its validation images"),
        (("val/a/1", "test/a/1"), r"it has 'val' but no folder 'train'"),
        (("test/a/1",), r"it has 'test' but no folder 'train'"),
        (("test/1", "car/1"), r"'test' looks like its held-out images; add data\.held_out=.*/test$"),
        (("a/1", "b/1", "validation/x/1"), r"'validation' looks like its held-out images; add data\.held_out=.*"),
        (("1", "test/1"), r"'test' looks like its held-out images; add data\.held_out=.*"),
        (("a/1", "b/1", "val/a/1", "val/b/1"), r"'val' looks like its held-out images; add data\.held_out=.*/val$"),
    ],
)
def test_unclear_splits_are_errors(write, names, message):
    root = write(*(f"{name}.png" for name in names))
    with pytest.raises(UserError, match=rf"^data\.root: the training images in .* are unclear: .*{message}"):
        load(root)


def test_splits_and_a_fraction_are_an_error(write):
    root = write("train/a/1.png", "val/a/1.png")
    with pytest.raises(UserError, match="has held-out images in 'val'"):
        load(root, test_fraction=0.5)
    with pytest.raises(UserError, match="choose one"):
        load(root, held_out=str(root), test_fraction=0.5)


def test_held_out_names_any_folder(write, capsys):
    root = write("images/b/1.png", "images/c/1.png", "other/c/1.png")
    held_out = str(root / "other")
    assert load(root / "images", held_out=held_out) == (([1, 2], [0, 1]), ([3], [1]), ("b", "c"))
    (root / "images" / "b").rename(root / "images" / "d")
    assert load(root / "images", held_out=held_out) == (([2, 1], [0, 1]), ([3], [0]), ("c", "d"))
    assert capsys.readouterr().out == ""
    config = load_config(FolderConfig, None, [f"root={root / 'images'}", f"test_root={held_out}"])  # the old name
    assert config.held_out == held_out


def test_held_out_folder_inside_the_root_is_not_trained_on(write):
    root = write("data/a/1.png", "data/b/1.png", "data/dev/a/1.png", "elsewhere/b/1.png")
    assert load(root / "data", held_out=str(root / "data" / "dev")) == (([1, 2], [0, 1]), ([3], [0]), ("a", "b"))
    (root / "data" / "dev").rename(root / "dev")
    (root / "data" / "link").symlink_to(root / "elsewhere")
    expected = (([1, 2], [0, 1]), ([4], [1]), ("a", "b"))
    assert load(root / "data", held_out=str(root / "elsewhere")) == expected


@pytest.mark.parametrize("folder", ["", "data"])
def test_held_out_folder_that_contains_the_root_is_an_error(write, folder):
    root = write("data/a/1.png", "data/b/1.png")
    with pytest.raises(UserError, match=r"data\.held_out: '.*' contains all images of data\.root"):
        load(root / "data", held_out=str(root / folder))


def test_other_held_out_classes_are_an_error(write):
    root = write("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/c/1.png", "third/c/1.png")
    message = r"val/c' is no class of the training images \(a, b\); both need the same class folders"
    with pytest.raises(UserError, match=message):
        load(root / "train", held_out=str(root / "val"))
    third = str(root / "third")
    with pytest.raises(UserError, match="third/c' is no class"):
        load(root / "train", held_out=third, conditional=True)
    splits = FolderConfig(root=str(root / "train"), held_out=third, resolution=8).load()  # its subfolders do not matter
    assert (splits.held_out.num_classes, len(splits.held_out)) == (1, 1)


def test_splits_with_other_classes_are_an_error(write):
    root = write("train/a/1.png", "val/c/1.png")
    with pytest.raises(UserError, match="val/c' is no class"):
        load(root)


def test_split_folders_share_the_cache_of_their_images(write):
    root = write("train/a/1.png", "val/a/1.png")
    splits = FolderConfig(root=str(root), resolution=8).load()
    direct = FolderConfig(root=str(root / "train"), resolution=8).load()
    assert splits.train.preparation.folder == direct.train.preparation.folder
    assert torch.equal(splits.train.images, direct.train.images)


@pytest.mark.parametrize(
    ("names", "folder", "message"),
    [
        (("train/a/1", "val/a/1", "extra/a/1"), "val", r"the splits 'train' and 'val', but also 'extra'; move it away"),
        (("train/a/1", "test/a/1", "stray"), "test", r"but also 'stray\.png'; move it away"),
        (("a/1", "b/1", "val/a/1", "test/a/1"), "val", r"'test' looks like its held-out images; move it away or"),
    ],
)
def test_splits_are_recognized_before_named_held_out_images_are_removed(write, names, folder, message):
    root = write(*(f"{name}.png" for name in names))
    with pytest.raises(UserError, match=message):
        load(root, held_out=str(root / folder))


def test_a_named_split_folder_is_not_trained_on(write):
    root = write("train/a/1.png", "train/b/1.png", "val/a/1.png")
    assert load(root, held_out=str(root / "val")) == (([1, 2], [0, 1]), ([3], [0]), ("a", "b"))
    root = write("classes/a/1.png", "classes/b/1.png", "classes/val/a/1.png") / "classes"
    assert load(root, held_out=str(root / "val")) == (([1, 2], [0, 1]), ([3], [0]), ("a", "b"))
    root = write("splits/train/a/1.png", "splits/val/a/1.png") / "splits"
    with pytest.raises(UserError, match=r"data\.held_out: '.*' contains all images of data\.root"):
        load(root, held_out=str(root / "train"))


def link(root: Path, name: str, target: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).symlink_to(root / target)


@pytest.mark.parametrize(
    ("name", "target", "trained_on"),
    [
        ("train/a/leak.png", "val/a/1.png", [1, 2, 3]),
        ("train/c", "val/a", [1, 2, 3]),
        ("val/b/2.png", "train/b/2.png", [1, 2]),
    ],
)
def test_held_out_images_are_not_trained_on_through_links(write, capsys, name, target, trained_on):
    root = write("train/a/1.png", "train/b/1.png", "train/b/2.png", "val/a/1.png")
    link(root, name, target)
    (train, _), (held_out, _), classes = load(root)
    assert (train, classes) == (trained_on, ("a", "b"))
    assert set(train).isdisjoint(held_out)
    assert "data: 1 images in" in capsys.readouterr().out


def test_training_images_that_are_all_held_out_are_an_error(write):
    root = write("train/a/1.png", "train/b/1.png")
    link(root, "val", "train")
    with pytest.raises(UserError, match=r"^data\.root: '.*val' contains all images of data\.root .*; choose another"):
        load(root)


def test_links_to_training_images_hold_these_out(write, capsys):
    root = write("data/a/1.png", "data/a/2.png", "data/b/1.png", "data/b/2.png")
    link(root, "files/a/1.png", "data/a/1.png")
    link(root, "folders/b", "data/b")
    expected = (([2, 3, 4], [0, 1, 1]), ([1], [0]), ("a", "b"))
    assert load(root / "data", held_out=str(root / "files")) == expected
    out = capsys.readouterr().out
    assert out == f"data: 1 images in '{root / 'data'}' are held-out images and are not trained on (a/1.png)\n"
    (levels, _), (held_out, _), classes = load(root / "data", held_out=str(root / "folders"))
    assert (levels, held_out, classes) == ([1, 2], [3, 4], ("a",))


def test_links_to_the_images_of_the_fraction_are_not_trained_on(write):
    root = write(*(f"{folder}/{number}.png" for folder in "ab" for number in range(10)))
    link(root, "link", "a")
    (train, _), (held_out, _), classes = load(root, test_fraction=0.5)
    assert held_out
    assert set(train).isdisjoint(held_out)
    assert classes == ("a", "b", "link")
