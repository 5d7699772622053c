import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gan.data import ImageData
from gan.data.prepared import Chunk, Source, prepare
from gan.runtime.errors import UserError

SHAPE = (3, 4, 5)


def source(root: Path, count: int = 10, **changes) -> Source:
    """Images made from the bytes of the files of a folder, in uneven chunks."""

    def decode() -> Iterator[Chunk]:
        seed = b"".join((root / name).read_bytes() for name in ("a", "b"))
        images = np.random.default_rng(list(seed)).integers(256, size=(count, *SHAPE), dtype=np.uint8)
        labels = np.arange(count) % 3
        yield Chunk(images[:1], labels[:1])
        yield Chunk(images[1:1], labels[1:1], ("c: broken",))
        yield Chunk(images[1:], labels[1:])

    whole = Source(
        name="test",
        root=root,
        files=["a", "b"],
        options=("x", 1),
        shape=SHAPE,
        num_classes=3,
        decode=decode,
        read_class_names=lambda: ["one", "two", "three"],
    )
    return replace(whole, **changes)


def never() -> Iterator[Chunk]:
    raise AssertionError("decoded again")
    yield


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "source").mkdir()
    for name in ("a", "b"):
        (tmp_path / "source" / name).write_bytes(name.encode())
    return tmp_path / "source"


def assert_same(a: ImageData, b: ImageData):
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.labels, b.labels)
    assert (a.num_classes, a.class_names, a.fingerprint) == (b.num_classes, b.class_names, b.fingerprint)
    assert a.preparation.skipped == b.preparation.skipped == ("c: broken",)


def test_images_are_decoded_once(root):
    first = prepare(source(root))
    expected = np.concatenate([chunk.images for chunk in source(root).decode()])
    assert torch.equal(first.images, torch.from_numpy(expected))
    assert first.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert first.class_names == ("one", "two", "three")
    assert_same(prepare(source(root, decode=never)), first)


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_the_array_is_an_ordinary_npy_file(root, count):
    data = prepare(source(root, count))
    assert np.array_equal(np.load(data.preparation.folder / "images.npy"), data.images.numpy())
    assert data.images.shape == (count, *SHAPE)


def test_the_fingerprint_is_that_of_the_content(root):
    data = prepare(source(root))
    assert replace(data, preparation=None).fingerprint == data.fingerprint


def test_images_are_mapped_and_writing_to_them_changes_no_file(root):
    data = prepare(source(root))
    before = data.images.clone()
    data.images.zero_()
    assert torch.equal(prepare(source(root, decode=never)).images, before)


@pytest.mark.parametrize(
    "changes",
    [{"options": ("x", 2)}, {"name": "other"}, {"num_classes": 4}, {"files": ["b", "a"]}],
    ids=["options", "name", "classes", "order"],
)
def test_every_choice_has_a_cache_of_its_own(root, changes):
    folder = prepare(source(root)).preparation.folder
    assert prepare(source(root, **changes)).preparation.folder != folder


@pytest.mark.parametrize("change", ["content", "time", "replaced"])
def test_a_source_file_that_changed_is_decoded_anew(root, change):
    path, old = root / "b", prepare(source(root))
    status = path.stat()
    if change == "content":
        path.write_bytes(b"longer")
    elif change == "time":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    else:  # another file of the same size and time: only its ctime gives it away
        (root / "new").write_bytes(b"c")
        os.utime(root / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(root / "new", path)
        assert path.stat().st_mtime_ns == status.st_mtime_ns
    new = prepare(source(root))
    assert new.preparation.folder != old.preparation.folder
    assert torch.equal(new.images, old.images) == (change == "time")


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "info.json"])
@pytest.mark.parametrize("damage", ["gone", "empty", "short", "other"])
def test_a_damaged_cache_is_noticed_and_made_anew(root, name, damage):
    data = prepare(source(root))
    path, first = data.preparation.folder / name, replace(data, images=data.images.clone())
    whole = path.read_bytes()
    path.unlink()
    if damage == "other":
        other = prepare(source(root, 7, name="other")).preparation.folder / name
        path.write_bytes(other.read_bytes())
    elif damage != "gone":
        path.write_bytes(whole[: len(whole) // 2] if damage == "short" else b"")
    assert_same(prepare(source(root)), first)
    assert path.read_bytes() == whole


def test_a_decoding_that_is_broken_off_leaves_nothing_that_counts(root):
    def broken() -> Iterator[Chunk]:
        yield from source(root).decode()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source(root, decode=broken))
    assert len(prepare(source(root))) == 10


def test_files_that_change_while_they_are_read_are_an_error(root):
    def changing() -> Iterator[Chunk]:
        yield from source(root).decode()
        (root / "a").write_bytes(b"changed")

    with pytest.raises(UserError, match="changed while they were read; run this again"):
        prepare(source(root, decode=changing))


def test_a_source_without_images_and_one_that_is_gone_are_errors(root):
    def nothing() -> Iterator[Chunk]:
        yield Chunk(np.empty((0, *SHAPE), np.uint8), np.empty(0, np.int64), ("a: broken",))

    with pytest.raises(UserError, match=r"no image in .* can be read \(a: broken\)"):
        prepare(source(root, decode=nothing))
    (root / "a").unlink()
    with pytest.raises(UserError, match=r"cannot read .*a': No such file"):
        prepare(source(root))


@pytest.mark.parametrize("case", ["a file in the way", "no home", "full"])
def test_a_cache_that_cannot_be_written_is_said_and_the_images_are_kept_in_memory(root, tmp_path, monkeypatch, case):
    expected = prepare(source(root))
    if case == "a file in the way":
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    elif case == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "full"))
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.warns(UserWarning, match=r"cache.*cannot be written \(.*\); continuing without it"):
        data = prepare(source(root))
    assert data.preparation.folder is None
    assert_same(data, expected)


def test_two_splits_that_cannot_be_cached_are_said_once(root, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for name in ("train", "test"):
            prepare(source(root, name=name))
    assert len(shown) == 1


def slow_source(root: Path) -> Source:
    """Images that take a while to decode, from when two processes have come this far."""
    fast = source(root, 2000)

    def slowly() -> Iterator[Chunk]:
        (root / f"ready{os.getpid()}").touch()
        while len(list(root.glob("ready*"))) < 2:
            time.sleep(0.002)
        for images, labels, skipped in fast.decode():
            for start in range(0, max(1, len(images)), 100):
                yield Chunk(images[start : start + 100], labels[start : start + 100], skipped)
                time.sleep(0.005)

    return replace(fast, decode=slowly)


CHILD = """\
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from test_prepared import prepare, slow_source
print(prepare(slow_source(Path(sys.argv[3]))).fingerprint)
"""


def test_two_processes_at_once_both_end_well(root):
    places = [str(Path(__file__).parent), str(Path(__file__).parents[3])]
    command = [sys.executable, "-W", "error::UserWarning", "-c", CHILD, *places, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        mine = prepare(slow_source(root))
        out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, "")
    data = prepare(source(root, 2000, decode=never))
    assert out.strip() == mine.fingerprint == data.fingerprint == replace(data, preparation=None).fingerprint
    assert torch.equal(mine.images, data.images)
    assert sorted(os.listdir(data.preparation.folder)) == ["images.npy", "info.json", "labels.npy"]
