import os
import re
import time
import warnings
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gan.data import ImageData, prepared
from gan.data.prepared import Chunk, Source, prepare, sort_chunks
from gan.runtime.cache import cache_dir
from gan.runtime.errors import UserError

SHAPE = (3, 4, 5)


def make_source(root: Path, count: int = 10, **changes) -> Source:
    """Return a source whose images are made from the bytes of two files, in chunks of different sizes."""

    def decode() -> Iterator[Chunk]:
        seed = b"".join((root / name).read_bytes() for name in ("a", "b"))
        images = np.random.default_rng(list(seed)).integers(256, size=(count, *SHAPE), dtype=np.uint8)
        labels = np.arange(count) % 3
        yield Chunk(images[:1], labels[:1])
        yield Chunk(images[1:1], labels[1:1], ("c: broken",))
        yield Chunk(images[1:], labels[1:])

    source = Source(
        name="test",
        root=root,
        files=["a", "b"],
        options=("x", 1),
        shape=SHAPE,
        num_classes=3,
        decode=decode,
        read_class_names=lambda: ["one", "two", "three"],
    )
    return replace(source, **changes)


def fail() -> Iterator[Chunk]:
    raise AssertionError("decoded again")
    yield


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "source").mkdir()
    for name in ("a", "b"):
        (tmp_path / "source" / name).write_bytes(name.encode())
    return tmp_path / "source"


def assert_equal(a: ImageData, b: ImageData):
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.labels, b.labels)
    assert (a.num_classes, a.class_names, a.fingerprint) == (b.num_classes, b.class_names, b.fingerprint)
    assert a.preparation.skipped == b.preparation.skipped == ("c: broken",)


def test_images_are_decoded_once(root):
    first = prepare(make_source(root))
    expected = np.concatenate([chunk.images for chunk in make_source(root).decode()])
    assert torch.equal(first.images, torch.from_numpy(expected))
    assert first.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert first.class_names == ("one", "two", "three")
    assert_equal(prepare(make_source(root, decode=fail)), first)


def test_nothing_is_decoded_in_vain_for_a_full_disk(root, monkeypatch):
    usage = namedtuple("Usage", ("total", "used", "free"))(10**9, 10**9, 100)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    decoded = []

    def decode():
        decoded.append(1)
        return make_source(root).decode()

    with pytest.warns(UserWarning, match="cache .* cannot be written .*0.00 GB are needed.*continuing without it"):
        data = prepare(make_source(root, decode=decode, max_count=10))
    assert data.preparation.folder is None
    assert decoded == [1]
    assert len(data) == 10


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_array_is_a_valid_npy_file(root, count):
    data = prepare(make_source(root, count))
    assert np.array_equal(np.load(data.preparation.folder / "images.npy"), data.images.numpy())
    assert data.images.shape == (count, *SHAPE)


def test_fingerprint_equals_that_of_the_images(root):
    data = prepare(make_source(root))
    assert replace(data, preparation=None).fingerprint == data.fingerprint


def test_changes_of_mapped_images_are_not_written(root):
    data = prepare(make_source(root))
    before = data.images.clone()
    data.images.zero_()
    assert torch.equal(prepare(make_source(root, decode=fail)).images, before)


@pytest.mark.parametrize(
    "changes",
    [{"options": ("x", 2)}, {"name": "other"}, {"num_classes": 4, "read_class_names": tuple}, {"files": ["b", "a"]}],
    ids=["options", "name", "classes", "order"],
)
def test_every_option_changes_the_key(root, changes):
    folder = prepare(make_source(root)).preparation.folder
    assert prepare(make_source(root, **changes)).preparation.folder != folder


@pytest.mark.parametrize("change", ["content", "time", "replaced"])
def test_changed_source_file_is_decoded_again(root, change):
    path, old = root / "b", prepare(make_source(root))
    status = path.stat()
    if change == "content":
        path.write_bytes(b"longer")
    elif change == "time":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    else:  # another file with the same size and mtime but another ctime
        (root / "new").write_bytes(b"c")
        os.utime(root / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(root / "new", path)
        assert path.stat().st_mtime_ns == status.st_mtime_ns
    new = prepare(make_source(root))
    assert new.preparation.folder != old.preparation.folder
    assert torch.equal(new.images, old.images) == (change == "time")


DAMAGE = {
    "gone": lambda content, other: None,
    "empty": lambda content, other: b"",
    "short": lambda content, other: content[: len(content) // 2],
    "long": lambda content, other: content + b"x",
    "one byte": lambda content, other: content[:200] + bytes([content[200] ^ 1]) + content[201:],
    "header": lambda content, other: content[:8] + b"\n" + content[9:],  # NumPy raises TokenError
    "Fortran order": lambda content, other: content.replace(b"'fortran_order': False", b"'fortran_order': True "),
    "of other images": lambda content, other: other,
}


@pytest.mark.parametrize(
    ("name", "damage"),
    [("images.npy", damage) for damage in DAMAGE]
    + [("info.pt", damage) for damage in DAMAGE if damage != "Fortran order"],  # which only an array has
)
def test_damaged_cache_is_replaced_with_one_line(root, name, damage):
    data = prepare(make_source(root))
    path, original = data.preparation.folder / name, replace(data, images=data.images.clone())
    content = path.read_bytes()
    other = prepare(make_source(root, decode=other_images(root), name="other")).preparation.folder / name
    damaged = DAMAGE[damage](content, other.read_bytes())
    assert damaged != content
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        assert_equal(prepare(make_source(root)), original)
    lines = [str(warning.message) for warning in shown]
    if (name, damage) == ("info.pt", "gone"):
        assert lines == []
    else:
        assert len(lines) == 1
        assert re.fullmatch(rf".*{path} in the cache cannot be used \(.+\); making it again", lines[0])
    assert path.read_bytes() == content
    assert_equal(prepare(make_source(root, decode=fail)), original)


def test_pixels_are_verified_again_only_after_a_change(root, monkeypatch):
    hashed = []
    hash_rest = prepared._hash_rest
    monkeypatch.setattr(prepared, "_hash_rest", lambda file: hashed.append(Path(file.name)) or hash_rest(file))
    data = prepare(make_source(root))
    path, original = data.preparation.folder / "images.npy", data.images.clone()
    for _ in range(2):
        prepare(make_source(root, decode=fail))
    assert hashed == [path]
    os.utime(path, ns=(0, 0))
    prepare(make_source(root, decode=fail))
    assert hashed == [path] * 2
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(bytes([original.flatten()[-1].item() ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # the size and this time do not tell the change
    with pytest.warns(UserWarning, match="its checksum is wrong"):
        assert torch.equal(prepare(make_source(root)).images, original)


@pytest.mark.parametrize("damage", [lambda note: b"", lambda note: note[:-1] + b"x"], ids=["empty", "last byte"])
def test_pixels_are_verified_again_without_a_valid_note(root, damage):
    folder = prepare(make_source(root)).preparation.folder
    content = (folder / "images.npy").read_bytes()
    note = folder / "verified.pt"
    (folder / "images.npy").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    note.write_bytes(damage(note.read_bytes()))
    with (
        pytest.warns(UserWarning, match=r"images\.npy in the cache cannot be used"),
        pytest.warns(UserWarning, match=r"verified\.pt in the cache cannot be used"),
    ):
        prepare(make_source(root))
    assert (folder / "images.npy").read_bytes() == content


@pytest.mark.parametrize("name", ["info.pt", "verified.pt"])
def test_forged_file_is_made_again(root, name):
    from tests.gan.forged import assert_forged_files_are_made_again  # the processes that import this module cannot

    def load():
        data = prepare(make_source(root))
        return data.labels.tolist(), data.class_names, data.fingerprint, data.preparation.skipped

    load()
    (path,) = cache_dir().glob(f"datasets/*/{name}")
    assert_forged_files_are_made_again(path, load)


def other_images(root: Path):
    """Return a function that decodes images of the same shape with other pixels and labels."""

    def decode() -> Iterator[Chunk]:
        for images, labels, skipped in make_source(root).decode():
            yield Chunk(255 - images, 2 - labels, skipped)

    return decode


@pytest.mark.parametrize("name", ["images.npy", "info.pt"])
def test_pipe_in_the_cache_is_not_waited_for(root, name):
    path = prepare(make_source(root)).preparation.folder / name
    path.unlink()
    os.mkfifo(path)
    with pytest.warns(UserWarning, match="cannot be used"):
        assert len(prepare(make_source(root))) == 10


KILLED = """\
import os, sys
from dataclasses import replace
from pathlib import Path
from test_prepared import make_source, prepare

def decode():
    yield from source.decode()
    os.kill(os.getpid(), 9)

source = make_source(Path(sys.argv[1]))
prepare(replace(source, decode=decode))
"""


def test_leftovers_of_a_killed_preparation_are_removed_by_the_next(root, python):
    killed = python.run("-c", KILLED, root, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)})
    assert killed.returncode == -9
    (folder,) = (cache_dir() / "datasets").iterdir()
    assert [path.suffix for path in folder.iterdir()] == [".tmp"]
    prepare(make_source(root, options=("of another folder",)))
    assert not list(folder.iterdir())


def test_interrupted_decoding_leaves_no_valid_cache(root):
    def interrupted() -> Iterator[Chunk]:
        yield from make_source(root).decode()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(make_source(root, decode=interrupted))
    assert len(prepare(make_source(root))) == 10


def test_source_that_changes_during_decoding_is_an_error(root):
    def changing() -> Iterator[Chunk]:
        yield from make_source(root).decode()
        (root / "a").write_bytes(b"changed")

    with pytest.raises(UserError, match="changed while they were read; run the command again"):
        prepare(make_source(root, decode=changing))


def test_source_without_images_or_files_is_an_error(root):
    def decode_nothing() -> Iterator[Chunk]:
        yield Chunk(np.empty((0, *SHAPE), np.uint8), np.empty(0, np.int64), ("a: broken",))

    with pytest.raises(UserError, match=r"no readable images in .* \(a: broken\)"):
        prepare(make_source(root, decode=decode_nothing))
    (root / "a").unlink()
    with pytest.raises(UserError, match=r"cannot read .*a': No such file"):
        prepare(make_source(root))


@pytest.mark.parametrize("case", ["a file in the way", "no home", "full"])
def test_unwritable_cache_is_a_warning(root, tmp_path, monkeypatch, case):
    expected = prepare(make_source(root))
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
        data = prepare(make_source(root))
    assert data.preparation.folder is None
    assert_equal(data, expected)


def test_unwritable_cache_is_one_warning_for_both_splits(root, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for name in ("train", "test"):
            prepare(make_source(root, name=name))
    assert len(shown) == 1


def slow_source(root: Path) -> Source:
    """Return a source that waits until two processes decode it, and then decodes slowly."""
    fast = make_source(root, 2000)

    def decode() -> Iterator[Chunk]:
        (root / f"ready{os.getpid()}").touch()
        deadline = time.monotonic() + 300
        while len(list(root.glob("ready*"))) < 2:
            assert time.monotonic() < deadline, "the other process has not begun"
            time.sleep(0.002)
        for images, labels, skipped in fast.decode():
            for start in range(0, max(1, len(images)), 100):
                yield Chunk(images[start : start + 100], labels[start : start + 100], skipped)
                time.sleep(0.005)

    return replace(fast, decode=decode)


CHILD = """\
import sys, warnings
from pathlib import Path
warnings.simplefilter("error", UserWarning)
from test_prepared import prepare, slow_source
print(prepare(slow_source(Path(sys.argv[1]))).fingerprint)
"""


def test_two_processes_prepare_the_same_source(root, python):
    child = python.start("-c", CHILD, root, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)})
    ours = prepare(slow_source(root))
    done = child.wait()
    assert (done.returncode, done.stderr) == (0, "")
    data = prepare(make_source(root, 2000, decode=fail))
    assert done.stdout.strip() == ours.fingerprint == data.fingerprint == replace(data, preparation=None).fingerprint
    assert torch.equal(ours.images, data.images)
    assert sorted(os.listdir(data.preparation.folder)) == ["images.npy", "info.pt", "verified.pt"]


@pytest.mark.parametrize("on_disk", [False, True])
def test_chunks_in_another_order_are_sorted(root, on_disk):
    source = make_source(root, 5)
    expected = prepare(source)
    chunks = list(source.decode())
    order = [2, 0, 1]
    unsorted = [chunks[i] for i in order]
    folder = root if on_disk else None
    found = list(sort_chunks(iter(unsorted), order, folder))
    assert [chunk.skipped for chunk in found] == [(), ("c: broken",), ()]
    assert np.array_equal(np.concatenate([chunk.images for chunk in found]), expected.images.numpy())
    assert sorted(path.name for path in root.iterdir()) == ["a", "b"]
    data = prepare(replace(source, options=("unsorted",), decode=lambda: iter(unsorted), order=order))
    assert_equal(data, expected)
