import re
from pathlib import Path

import numpy as np
import pytest
import torch

from gan.runtime.cache import ContentHash, cache_dir, cached, hash_values


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_dir()


def never():
    raise AssertionError("computed again")


def test_cache_dir(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_dir() == Path("/somewhere/convnorm-gan")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "convnorm-gan"


def test_value_is_computed_once(empty_cache):
    value = {"x": torch.arange(3.0)}
    assert cached("name", lambda: value) is value
    assert torch.equal(cached("name", never)["x"], value["x"])


def test_names_have_separate_values(empty_cache):
    cached("a", lambda: {"x": 1})
    assert cached("b", lambda: {"x": 2}) == {"x": 2}


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_unreadable_file_is_computed_again(empty_cache, content):
    cached("name", lambda: {"x": torch.arange(100)})
    path = empty_cache / "name.pt"
    path.write_bytes(path.read_bytes()[:-50] if content is None else content)
    assert cached("name", lambda: {"x": 2}) == {"x": 2}
    assert cached("name", never) == {"x": 2}


def test_unwritable_cache_is_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"cannot be written \(Not a directory\)"):
        assert cached("name", lambda: {"x": 2}) == {"x": 2}


def test_missing_home_folder_is_a_warning(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.warns(UserWarning, match=r"cannot be written \(there is no home folder; set XDG_CACHE_HOME\)"):
        assert cached("name", lambda: {"x": 2}) == {"x": 2}


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
