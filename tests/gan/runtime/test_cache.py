import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from gan.runtime import signed
from gan.runtime.cache import ContentHash, cache_dir, cached, hash_values, read
from gan.runtime.temporary import name_temporary

KILLED = """\
import os, sys
from pathlib import Path
from gan.runtime.files import write_atomically
write_atomically(Path(sys.argv[1]), lambda file: os.kill(os.getpid(), 9))
"""


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_dir()


def never():
    raise AssertionError("computed again")


def accept(contents):
    """Accept any contents."""


def test_cache_dir(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_dir() == Path("/somewhere/convnorm-gan")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "convnorm-gan"


def test_value_is_computed_once(empty_cache):
    value = {"x": torch.arange(3.0)}
    assert cached("name", lambda: value, accept) is value
    assert torch.equal(cached("name", never, accept)["x"], value["x"])


def test_names_have_separate_values(empty_cache):
    cached("a", lambda: {"x": 1}, accept)
    assert cached("b", lambda: {"x": 2}, accept) == {"x": 2}


def flip_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def save_unsigned(data: bytes) -> bytes:
    file = io.BytesIO()
    torch.save({"x": 3}, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: b"not a file", lambda data: data[:-50], flip_bit, save_unsigned],
    ids=["empty", "text", "short", "one bit", "without a checksum"],
)
def test_damaged_file_is_computed_again_with_one_line(empty_cache, damage):
    cached("name", lambda: {"x": torch.arange(100)}, accept)
    path = empty_cache / "name.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=r"name\.pt in the cache cannot be used \(.*\); making it again$") as shown:
        assert cached("name", lambda: {"x": 2}, accept) == {"x": 2}
    assert len(shown) == 1
    assert cached("name", never, accept) == {"x": 2}


def test_file_of_another_name_is_computed_again(empty_cache):
    for name in "ab":
        cached(name, lambda: {"x": 1}, accept)
    shutil.copy(empty_cache / "a.pt", empty_cache / "b.pt")
    with pytest.warns(UserWarning, match=r"b\.pt in the cache cannot be used"):
        assert cached("b", lambda: {"x": 2}, accept) == {"x": 2}
    assert cached("a", never, accept) == {"x": 1}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to(path)])
def test_what_is_no_file_is_not_read(empty_cache, make):
    empty_cache.mkdir()
    make(empty_cache / "name.pt")
    with pytest.warns(UserWarning, match="in the cache cannot be used"):
        assert read("name", accept) is None


def test_reading_runs_no_code(empty_cache, capsys):
    class Bomb:
        def __reduce__(self):
            return print, ("code ran",)

    empty_cache.mkdir()
    with (empty_cache / "name.pt").open("wb") as file:
        signed.save(Bomb(), file, "name")
    with pytest.warns(UserWarning, match="cannot be used"):
        assert read("name", accept) is None
    assert capsys.readouterr().out == ""


def test_leftovers_of_killed_processes_are_removed_on_write(empty_cache, python):
    folder = empty_cache / "datasets" / "one"
    killed = python.run("-c", KILLED, folder / "images.npy")
    assert killed.returncode == -9
    (leftover,) = folder.iterdir()
    (folder / ".notes.tmp").touch()
    mine = name_temporary(folder / "images.npy")  # of a process that is alive
    mine.touch()
    cached("name", lambda: {"x": 1}, accept)
    assert not leftover.exists()
    assert {path.name for path in folder.iterdir()} == {".notes.tmp", mine.name}


def test_unwritable_cache_is_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"cannot be written \(Not a directory\)"):
        assert cached("name", lambda: {"x": 2}, accept) == {"x": 2}


def test_missing_home_folder_is_a_warning(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.warns(UserWarning, match=r"cannot be written \(there is no home folder; set XDG_CACHE_HOME\)"):
        assert cached("name", lambda: {"x": 2}, accept) == {"x": 2}


@pytest.mark.parametrize(
    "other",
    [
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([1.0, 2.0]).view(torch.int32),
        "1",
        1,
    ],
)
def test_hash_depends_on_values_shape_and_type(other):
    assert hash_values(other) != hash_values(torch.tensor([1.0, 2.0]))


def test_hash_does_not_depend_on_memory_layout():
    x = torch.arange(6.0).view(2, 3)
    assert hash_values(x) == hash_values(x.T.contiguous().T)
    assert hash_values("ab", "c") != hash_values("a", "bc")


@pytest.mark.parametrize("tensor", [torch.tensor(3.0), torch.zeros(0, 2), torch.ones(2, dtype=torch.bfloat16)])
def test_hash_of_scalars_empty_tensors_and_bfloat16(tensor):
    assert re.fullmatch("[0-9a-f]{32}", hash_values(tensor))
    assert hash_values(tensor) == hash_values(tensor.clone())


def test_content_hash_does_not_depend_on_parts():
    array = np.arange(24, dtype=np.int64).reshape(6, 4)
    whole, parts = ContentHash(), ContentHash()
    whole.add_array(array)
    for part in (array[:1], array[1:1], np.asfortranarray(array[1:])):
        parts.add_array(part)
    assert whole.hexdigest() == parts.hexdigest()
    parts.add_value((6, 4))
    assert whole.hexdigest() != parts.hexdigest()
