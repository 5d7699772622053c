import os
from pathlib import Path

import pytest

from gan.config import Config
from gan.options.loader import load_config
from gan.options.nodes import ConfigError, read_layers
from gan.options.shipped import CONFIGS, config_path

FAST = CONFIGS / "cifar10" / "fast.yaml"


@pytest.mark.parametrize(
    "name", ["cifar10/fast", "cifar10/fast.yaml", "configs/cifar10/fast", "configs/cifar10/fast.yaml"]
)
def test_config_is_found_by_its_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert config_path(name) == FAST
    assert config_path(str(FAST)) == FAST


def test_file_of_the_user_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = Path("configs/cifar10/fast.yaml")
    mine.parent.mkdir(parents=True)
    mine.write_text("seed: 5")
    assert config_path(str(mine)) == mine
    assert config_path("cifar10/fast") == FAST


@pytest.mark.parametrize("name", ["", ".", "gone", "cifar10", "configs", "x" * 5000, "a\0b", "cifar10/fast/"])
def test_other_paths_are_unchanged(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert os.fspath(config_path(name)) in (os.fspath(Path(name)), os.fspath(FAST) if name == "cifar10/fast/" else "")


@pytest.mark.parametrize("name", ["digits/dc", "digits/dcgann", "configs/digits/dcgan.yml"])
def test_closest_config_is_suggested(name):
    with pytest.raises(ConfigError, match=r"; did you mean 'digits/dcgan'[?]$"):
        read_layers(config_path(name))


def test_base_may_be_a_shipped_config(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: cifar10/fast\nseed: 5")
    assert load_config(Config, mine) == load_config(Config, FAST, ["seed=5"])
    mine.write_text("base: cifar10/gone")
    with pytest.raises(ConfigError, match=r"base: cannot read the config file .*cifar10/gone: No such file"):
        load_config(Config, mine)
