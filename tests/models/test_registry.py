"""Registries of classes by name."""

import sys
import types

import pytest

from models.activation_norms import ACTIVATION_NORMS
from models.networks.base import DISCRIMINATORS, GENERATORS
from models.registry import Registry, UnknownNameError, import_submodules


def test_register_and_get():
    registry = Registry("thing")
    cls = registry.register("b")(type("B", (), {}))
    registry.register("a")(type("A", (), {}))
    assert registry.get("b") is cls
    assert registry.get_name(cls) == "b"
    assert list(registry) == ["a", "b"]
    assert "a" in registry
    assert "c" not in registry


def test_duplicate_name_is_rejected():
    registry = Registry("thing")
    registry.register("a")(int)
    with pytest.raises(ValueError, match="thing 'a' is registered twice"):
        registry.register("a")(float)
    assert registry.get("a") is int


def test_alias():
    registry = Registry("thing")
    registry.register("new", aliases=["old", "older"])(int)
    registry.register("other")(float)
    assert registry.get("old") is registry.get("older") is registry.get("new") is int
    assert registry.get_name(int) == "new"
    assert registry.resolve("old") == registry.resolve("new") == "new"
    assert registry.resolve("other") == "other"
    assert "old" in registry
    assert list(registry) == ["new", "other"]
    with pytest.raises(UnknownNameError, match=r"\(choices: new, other\)$"):
        registry.get("oldest thing")


@pytest.mark.parametrize(
    ("name", "aliases", "duplicate"), [("b", ["a"], "a"), ("b", ["old"], "old"), ("old", [], "old"), ("a", ["b"], "a")]
)
def test_duplicate_alias_is_rejected(name, aliases, duplicate):
    registry = Registry("thing")
    registry.register("a", aliases=["old"])(int)
    with pytest.raises(ValueError, match=f"thing '{duplicate}' is registered twice"):
        registry.register(name, aliases)(float)
    assert list(registry) == ["a"]
    assert registry.get("old") is int
    assert "b" not in registry


def test_unknown_name_lists_choices_and_a_suggestion():
    registry = Registry("thing")
    registry.register("spectral")(int)
    registry.register("none")(float)
    with pytest.raises(
        UnknownNameError, match=r"unknown thing 'spectrl' \(choices: none, spectral\); did you mean 'spectral'"
    ):
        registry.get("spectrl")
    with pytest.raises(KeyError):
        registry.get_name(str)


def test_import_submodules(tmp_path, monkeypatch):
    folder = tmp_path / "example_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("imported = []\n")
    (folder / "new_file.py").write_text("import example_package\nexample_package.imported.append(1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    package: types.ModuleType = __import__("example_package")
    import_submodules(package)
    assert package.imported == [1]
    for name in ("example_package", "example_package.new_file"):
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("registry", [GENERATORS, DISCRIMINATORS])
def test_networks_are_registered(registry):
    assert {"dcgan", "resnet", "sndcgan", "r3gan"} <= set(registry)


def test_activation_norms_are_registered():
    assert {"none", "batch", "layer", "instance", "group"} <= set(ACTIVATION_NORMS)
