"""Archives give the same images, labels and fingerprints as the folders that they were made from."""

import json
import random
from pathlib import Path

import pytest
import torch

from gan.data import ImageData, Splits
from gan.data.datasets.folder import FolderConfig
from gan.data.files import tar_archive
from gan.runtime.cache import cache_dir
from gan.runtime.errors import UserError
from tests.gan.data.packing import SUFFIXES, encode, pack, write_files
from tests.gan.forged import assert_forged_files_are_made_again

SPLITS = [
    f"{split}/{name}/{i}.png"
    for split in ("train", "test")
    for name in ("b", "a-1", "a", "Ünï 日本")
    for i in (1, 10, 9)
]


def images(*names: str) -> dict[str, bytes]:
    """Return different images by name."""
    return {name: encode(seed) for seed, name in enumerate(names)}


def shuffled(files: dict[str, bytes]) -> list[tuple[str, bytes]]:
    return random.Random(0).sample(list(files.items()), len(files))


def labeled(files: dict[str, bytes], labels: dict | list | None) -> dict[str, bytes]:
    """Return the files and a `dataset.json`, which is last as in the archives of StyleGAN."""
    labels = [*map(list, labels.items())] if isinstance(labels, dict) else labels
    return files | {"dataset.json": json.dumps({"labels": labels}).encode()}


def load(root: Path, **options) -> Splits:
    return FolderConfig(**{"root": str(root), "resolution": 8} | options).load()


def assert_equal(data: ImageData | None, expected: ImageData | None) -> None:
    if expected is None:
        assert data is None
        return
    assert torch.equal(data.images, expected.images)
    assert torch.equal(data.labels, expected.labels)
    assert (data.num_classes, data.class_names) == (expected.num_classes, expected.class_names)
    assert data.fingerprint == expected.fingerprint


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("names", [SPLITS, ["x/2.png", "x/1.png", "y/1.png"], ["b.png", "a.png", "c/d/e.png"]])
def test_archive_equals_its_folder(tmp_path, suffix, names):
    files = images(*names)
    expected = load(write_files(tmp_path / "folder", files))
    archive = pack(tmp_path / f"archive{suffix}", shuffled(files))
    before = sorted(tmp_path.rglob("*.png"))
    for _ in range(2):  # decoded, then read from the cache
        splits = load(archive)
        assert_equal(splits.train, expected.train)
        assert_equal(splits.held_out, expected.held_out)
    assert sorted(tmp_path.rglob("*.png")) == before  # nothing was unpacked


def test_prepared_archive_is_neither_listed_nor_decoded_again(tmp_path, monkeypatch):
    archive = pack(tmp_path / "x.tar.xz", images(*SPLITS))
    first = load(archive)
    monkeypatch.setitem(tar_archive.OPENERS, "xz", lambda *_: pytest.fail("the archive was read again"))
    assert_equal(load(archive).train, first.train)


def test_changed_archive_is_noticed(tmp_path):
    archive = pack(tmp_path / "x.tar.gz", images("1.png", "2.png"))
    assert len(load(archive).train) == 2
    pack(archive, images("2.png", "1.png", "3.png"))
    assert torch.equal(
        load(archive).train.images[2], load(write_files(tmp_path / "y", {"3.png": encode(2)})).train.images[0]
    )
    assert len(load(archive).train) == 3


@pytest.mark.parametrize("suffix", [".zip", ".tar.xz"])
def test_each_folder_of_an_archive_is_read_on_request(tmp_path, suffix):
    archive = pack(tmp_path / f"x{suffix}", shuffled(images(*SPLITS)))
    splits = load(archive)
    assert_equal(load(archive / "test").train, splits.held_out)
    assert_equal(load(archive / "train", held_out=str(archive / "test")).held_out, splits.held_out)
    assert FolderConfig(root=str(archive / "train"), held_out=str(archive)).missing() == []
    assert len(FolderConfig(root=str(tmp_path / "other.zip" / "train"), held_out=str(archive)).missing()) == 1
    with pytest.raises(UserError, match=r"^data\.root: no images in '.*/x\.(zip|tar\.xz)/tes'"):
        load(archive / "tes")


def test_held_out_images_in_another_archive(tmp_path):
    train, test = images("a/1.png", "b/1.png"), {"b/7.png": encode(7)}
    expected = load(write_files(tmp_path / "train", train), held_out=str(write_files(tmp_path / "test", test)))
    archives = pack(tmp_path / "x.tar.bz2", train), pack(tmp_path / "y.zip", {f"test/{n}": d for n, d in test.items()})
    splits = load(archives[0], held_out=str(archives[1]))
    assert_equal(splits.train, expected.train)
    assert splits.held_out.labels.tolist() == [1]
    assert_equal(splits.held_out, expected.held_out)
    (tmp_path / "link.tar.bz2").symlink_to(archives[0])
    with pytest.raises(UserError, match=r"data\.held_out: .* contains all images of data\.root"):
        load(archives[0], held_out=str(tmp_path / "link.tar.bz2"))


@pytest.mark.parametrize("wrapper", ["repo-main/", "./home/me/"])
def test_folder_that_wraps_everything_is_looked_through(tmp_path, wrapper):
    files = images(*SPLITS)
    expected = load(write_files(tmp_path / "folder", files))
    archive = pack(tmp_path / "x.tar", {wrapper + "README.md": b"", **{wrapper + n: data for n, data in files.items()}})
    assert_equal(load(archive).train, expected.train)
    assert_equal(load(archive).held_out, expected.held_out)
    labels = labeled(images("00000/1.png", "00001/1.png"), {"00000/1.png": 4, "00001/1.png": 0})
    assert load(pack(tmp_path / "y.zip", {wrapper + n: data for n, data in labels.items()})).train.labels.tolist() == [
        4,
        0,
    ]


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["photos/1.png", "photos/2.png"], ("photos",)),
        (["photos/cat/1.png", "photos/dog/1.png"], ("cat", "dog")),
        (["train/cat/1.png", "train/dog/1.png"], ("cat", "dog")),
        (["x/train/1.png", "x/train/2.png"], ()),
    ],
)
def test_classes_in_wrappers(tmp_path, names, classes):
    assert load(pack(tmp_path / "x.tar.gz", images(*names))).train.class_names == classes


@pytest.mark.parametrize("suffix", ["", *SUFFIXES])
def test_labels_of_dataset_json_override_folders(tmp_path, suffix):
    """As the archives that `dataset_tool.py` of StyleGAN and EDM writes."""
    names = [f"{i // 2:05d}/img{i:08d}.png" for i in range(5)]
    labels = [3, 0, 1, 3, 0]
    files = labeled(images(*names), dict(zip(names, labels, strict=True)))
    root = pack(tmp_path / f"x{suffix}", files) if suffix else write_files(tmp_path / "x", files)
    data = load(root, conditional=True).train
    assert (data.labels.tolist(), data.num_classes, data.class_names) == (labels, 4, ("0", "1", "2", "3"))
    plain = load(write_files(tmp_path / "plain", images(*names))).train
    assert torch.equal(data.images, plain.images)
    assert plain.num_classes == 3


def test_changed_labels_are_noticed(tmp_path):
    files = images("1.png", "2.png")
    assert load(write_files(tmp_path, labeled(files, {"1.png": 0, "2.png": 1}))).train.labels.tolist() == [0, 1]
    assert load(write_files(tmp_path, labeled(files, {"1.png": 1, "2.png": 0}))).train.labels.tolist() == [1, 0]
    assert load(write_files(tmp_path, labeled(files, None))).train.labels.tolist() == [0, 0]


def test_images_without_labels(tmp_path):
    archive = pack(tmp_path / "x.zip", labeled(images("00000/1.png", "00001/2.png"), None))
    assert (load(archive).train.num_classes, load(archive).train.class_names) == (1, ())
    with pytest.raises(UserError, match=r"data\.conditional=true: '.*x\.zip/00000/1\.png' has no class"):
        load(archive, conditional=True)


@pytest.mark.parametrize("place", ["", "train/"])
def test_labels_of_splits(tmp_path, place):
    files = images("train/0/1.png", "train/0/2.png", "test/1.png")
    labels = {"train/0/1.png": 1, "train/0/2.png": 0, "test/1.png": 1}
    inside = {name.removeprefix(place): label for name, label in labels.items() if name.startswith(place)}
    files[f"{place}dataset.json"] = labeled({}, inside)["dataset.json"]
    splits = load(pack(tmp_path / "x.tar.gz", files))
    assert splits.train.labels.tolist() == [1, 0]
    assert (splits.held_out.num_classes, splits.held_out.labels.tolist()) == ((1, [0]) if place else (2, [1]))


def test_held_out_labels_that_are_not_trained_on_are_an_error(tmp_path):
    train = pack(tmp_path / "x.zip", labeled(images("1.png", "2.png"), {"1.png": 1, "2.png": 0}))
    held_out = pack(tmp_path / "y.zip", labeled(images("3.png"), {"3.png": 1}))
    assert load(train, held_out=str(held_out)).held_out.labels.tolist() == [1]
    held_out = pack(tmp_path / "z.zip", labeled(images("3.png"), {"3.png": 2}))
    with pytest.raises(UserError, match=r"z\.zip/2' is no class of the training images \(0, 1\)"):
        load(train, held_out=str(held_out))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"dataset\.json' is not of the form"),
        (b"[1]", r"is not of the form"),
        (b"{}", r"is not of the form"),
        (b"\xff", r"is not of the form"),
        (b"[" * 100_000, r"is not of the form"),
        (b'{"labels": {"1.png": 0}}', r"'labels' must be a list of \[name, label\], or null"),
        (b'{"labels": [["1.png"]]}', r"""must be a list of \[name, label\], or null, without "\['1\.png'\]"$"""),
        (
            b'{"labels": [["1.png", [0, 1]]]}',
            r"the label of '1\.png' must be an integer from 0 to 999,999, not \[0, 1\]",
        ),
        (b'{"labels": [["1.png", true]]}', r"must be an integer .*, not True"),
        (b'{"labels": [["1.png", -1]]}', r"must be an integer .*, not -1"),
        (b'{"labels": [["1.png", 1e3]]}', r"must be an integer .*, not 1000.0"),
        (b'{"labels": [["1.png", 0]]}', r"has no label for '2\.png'; add it, or write null"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_invalid_labels_are_a_one_line_error(tmp_path, content, message, packed):
    files = images("1.png", "2.png") | {"dataset.json": content}
    root = pack(tmp_path / "x.zip", files) if packed else write_files(tmp_path / "x", files)
    with pytest.raises(UserError, match=rf"^data\.root: '.*{message}"):
        load(root)


@pytest.mark.parametrize("suffix", [".zip", ".tar.xz"])
def test_corrupt_images_in_archives_are_errors_or_skipped(tmp_path, suffix):
    files = images("a/1.png", "b/1.png", "b/2.png", "c/1.png")
    files["a/1.png"] = b""
    files["b/2.png"] = files["b/2.png"][:100]
    archive = pack(tmp_path / f"x{suffix}", dict(reversed(files.items())))
    with pytest.raises(UserError, match=rf"data: an image in '.*x{suffix}' cannot be read: .*; remove it or set"):
        load(archive)
    with pytest.warns(UserWarning, match=r"skipped 2 of 4 images in .* \(a/1\.png: not an image, \.\.\.\)"):
        data = load(archive, skip_corrupt=True).train
    with pytest.warns(UserWarning, match="skipped 2 of 4"):
        assert_equal(data, load(write_files(tmp_path / "folder", files), skip_corrupt=True).train)


def test_archive_without_a_cache(tmp_path, monkeypatch):
    files = images(*SPLITS)
    archive = pack(tmp_path / "x.tar.xz", shuffled(files))
    expected = load(write_files(tmp_path / "folder", files))
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="the cache .* cannot be written"):
        splits = load(archive)
    assert_equal(splits.train, expected.train)
    assert splits.train.preparation.folder is None


def test_fraction_of_an_archive_is_that_of_its_folder(tmp_path):
    files = images(*(f"{i}.png" for i in range(30)))
    expected = load(write_files(tmp_path / "folder", files), test_fraction=0.4)
    splits = load(pack(tmp_path / "x.tar.xz", shuffled(files)), test_fraction=0.4)
    assert_equal(splits.train, expected.train)
    assert_equal(splits.held_out, expected.held_out)


def test_forged_list_of_members_is_made_again(tmp_path):
    archive = pack(tmp_path / "archive.tar", shuffled(labeled(images("1.png", "2.png"), {"1.png": 1, "2.png": 0})))
    load(archive)
    (path,) = cache_dir().glob("archives/*.pt")
    assert_forged_files_are_made_again(path, lambda: load(archive).train.labels.tolist())
