"""The table from names to classes."""

import sys
import types

import pytest

from models.activation_norms import ACTIVATION_NORMS
from models.networks.base import DISCRIMINATORS, GENERATORS
from models.registry import Registry, UnknownNameError, import_submodules


def test_returns_what_was_registered():
    registry = Registry("thing")
    cls = registry.register("b")(type("B", (), {}))
    registry.register("a")(type("A", (), {}))
    assert registry.get("b") is cls
    assert registry.get_name(cls) == "b"
    assert list(registry) == ["a", "b"]
    assert "a" in registry
    assert "c" not in registry


def test_a_name_is_taken_once():
    registry = Registry("thing")
    registry.register("a")(int)
    with pytest.raises(ValueError, match="thing 'a' is registered twice"):
        registry.register("a")(float)
    assert registry.get("a") is int


def test_an_unknown_name_lists_the_choices_and_the_likely_one():
    registry = Registry("thing")
    registry.register("spectral")(int)
    registry.register("none")(float)
    with pytest.raises(
        UnknownNameError, match=r"unknown thing 'spectrl' \(choices: none, spectral\); did you mean 'spectral'"
    ):
        registry.get("spectrl")
    with pytest.raises(KeyError):
        registry.get_name(str)


def test_a_new_file_registers_itself(tmp_path, monkeypatch):
    (tmp_path / "zoo_of_test").mkdir()
    (tmp_path / "zoo_of_test" / "__init__.py").write_text("imported = []\n")
    (tmp_path / "zoo_of_test" / "newcomer.py").write_text("import zoo_of_test\nzoo_of_test.imported.append(1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    package: types.ModuleType = __import__("zoo_of_test")
    import_submodules(package)
    assert package.imported == [1]
    for name in ("zoo_of_test", "zoo_of_test.newcomer"):
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("registry", [GENERATORS, DISCRIMINATORS])
def test_the_families_are_there(registry):
    assert {"dcgan", "resnet", "sncnn", "r3gan"} <= set(registry)


def test_the_activation_norms_are_there():
    assert {"none", "batch", "layer", "instance", "group"} <= set(ACTIVATION_NORMS)
