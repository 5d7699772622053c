import dataclasses
from pathlib import Path

import pytest

from gan.config import Config
from gan.options.explain import explain, format_page
from gan.options.loader import load_config
from gan.options.nodes import ConfigError
from tests.gan.options.test_help import list_keys


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(Config, None, ["train.steps=7", "regularizers={r1: {weight: 3}}"])


NUMBER = """\
train.steps: 7
    Generator updates

    type:     a whole number, at least 1
    default:  2000"""
SCHEDULED = """\
optimizer.generator.lr: 0.0002
    Initial learning rate

    type:     a number, from 0 to 1000, or a mapping (a schedule)
    default:  0.0002

keys of the mapping that may be written instead of a number:
  optimizer.generator.lr.start: null
      Value at the first step
"""


def test_key_has_its_value_type_and_default(config):
    assert explain(config, "train.steps") == NUMBER
    assert explain(config, "optimizer.generator.lr").startswith(SCHEDULED)
    assert "type:     a whole number, from 1 to 1e+06, or null\n" in explain(config, "train.generator_batch_size")
    assert "type:     one of auto, true, false\n" in explain(config, "train.graph")
    assert "type:     a list, each entry a number, from 0 to 0.999999, or" in explain(
        config, "optimizer.generator.betas"
    )
    assert explain(config, "train.amp") == explain(config, "train.precision")


def test_section_has_the_keys_below_it(config):
    lines = explain(config, "optimizer").splitlines()
    assert lines[:2] == ["optimizer:", "    One Adam optimizer for each network, and a common schedule."]
    assert [line.split(":")[0].strip() for line in lines[2::2]] == [k for k in list_keys(Config) if k[:4] == "opti"]


def test_choice_has_the_choices_and_its_own_keys(config):
    text = explain(load_config(Config, None, ["discriminator=resnet"]), "discriminator")
    assert text.startswith("discriminator: resnet\n    Discriminator\n\nchoices:\n  biggan ")
    assert "keys of resnet:\n  discriminator.normalization: none\n" in text
    assert "discriminator.kernel_size" not in text
    assert "  discriminator.kernel_size: 4\n" in explain(config, "discriminator")
    assert explain(config, "loss.name") == explain(config, "loss")


def test_named_choices_have_the_values_of_the_config(config):
    assert explain(config, "regularizers").startswith("regularizers: r1\n")
    assert "\n  regularizers.r1.weight: 3.0\n" in explain(config, "regularizers.r1")
    assert "\n  regularizers.r2.weight: 1.0\n" in explain(config, "regularizers.r2")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("frog", r" \(known here: seed, plugins, .*checkpoint\)"),
        ("train.stepz", "did you mean 'train.steps'[?]"),
        ("steps", "did you mean 'train.steps'[?]"),
        ("discriminator.norm", "did you mean 'discriminator.normalization'[?]"),
        ("discriminator.head_bias", "a key of resnet: add discriminator=resnet"),
        ("seed.x", ": seed has no keys"),
    ],
)
def test_unknown_key_is_an_error_with_a_hint(config, key, hint):
    with pytest.raises(ConfigError, match=f"^--help {key}: unknown key.*{hint}$"):
        explain(config, key)


@pytest.mark.parametrize("path", [None, *sorted((Path(__file__).parents[3] / "configs").glob("cifar10/*.yaml"))])
def test_every_key_can_be_explained(path):
    config = load_config(Config, path)
    for key in list_keys(Config):
        assert explain(config, key).startswith(f"{key}:")


def test_page_has_the_sections_and_the_common_keys(config, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    lines = format_page(config, ["train.steps", "discriminator.width", "discriminator.head_bias"]).splitlines()
    assert [line.split()[0] for line in lines if line] == [
        *(field.name for field in dataclasses.fields(Config)),
        *("train.steps", "discriminator.width"),
    ]
    assert "  train.steps          7   Generator updates" in lines
    assert all(len(line) <= 100 for line in lines)
    for path in Config.COMMON:
        explain(load_config(Config, None, ["data=cifar10"]), path)
