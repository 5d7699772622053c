import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classification.config import Config as ClassifierConfig
from gan.config import Config
from gan.data.datasets.digits import Digits
from gan.options.help import describe
from gan.options.loader import dump_config, load_config, parse_config
from gan.options.nodes import ConfigError
from gan.options.schema import is_family
from models.ranges import INT64, Range
from models.registry import Registry


def load(tmp_path: Path, text: str, *overrides: str, schema: type = Config) -> Any:
    path = tmp_path / "test.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(schema, path, overrides)


def load_error(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value).removeprefix(f"{tmp_path}/")


# A small schema whose classes have common options and options of their own


@dataclass(frozen=True, kw_only=True)
class Shape:
    registry: ClassVar[Registry["Shape"]] = Registry("shape")
    color: str = "red"


@Shape.registry.register("circle")
@dataclass(frozen=True, kw_only=True)
class Circle(Shape):
    radius: float = 1.0


@Shape.registry.register("square")
@dataclass(frozen=True, kw_only=True)
class Square(Shape):
    side: float = 1.0

    def __post_init__(self):
        if self.side == 13:
            raise ValueError("a side of 13 brings bad luck")


@dataclass(frozen=True, kw_only=True)
class Picture:
    shape: Shape = field(default_factory=Circle)
    layers: dict[str, Shape] = field(default_factory=dict)


def test_overrides_do_not_change_the_next_config_of_the_file(tmp_path):
    text = "train: {steps: 3}\ndata: {name: digits, resolution: 16}\nregularizers: {r1: {weight: 0.5}}"
    expected = load(tmp_path, text)
    changed = load(
        tmp_path, text, "train.steps=4", "data.resolution=8", "regularizers.r1.every=2", "data.conditional=true"
    )
    assert (changed.train.steps, changed.data.resolution, changed.regularizers["r1"].every) == (4, 8, 2)
    assert load(tmp_path, text) == expected


def test_config_without_file_has_all_defaults():
    assert load_config(Config, None) == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed: 1", "test.yaml:1: sed: unknown key (known here: seed, plugins, data, "),
        ("sed: 1", "did you mean 'seed'?"),
        ("seed: 1\ntrain:\n  stepz: 5", "test.yaml:3: train.stepz: unknown key"),
        ("seed: 1\ntrain:\n  stepz: 5", "did you mean 'train.steps'?"),
        ("generator: {widht: 8}", "test.yaml:1: generator.widht: unknown key"),
        ("\nseed: one", "test.yaml:2: seed: must be a whole number, not the string 'one'"),
        ("seed: 1.5", "test.yaml:1: seed: must be a whole number, not 1.5"),
        ("seed: .inf", "test.yaml:1: seed: must be a whole number, not inf"),
        ("train: {steps: 1" + "0" * 400 + "}", "test.yaml:1: train.steps: must be from -9.22337e+18 to 9.22337e+18"),
        ("train: {generator_batch_size: 1e20}", "train.generator_batch_size: must be from 1 to 1e+06"),
        ("seed: true", "test.yaml:1: seed: must be a whole number, not true"),
        ("seed: null", "test.yaml:1: seed: must be a whole number, not null"),
        ("seed: -1", "test.yaml:1: seed: must be from 0 to"),
        ("seed: 0x" + "f" * 17, "test.yaml:1: seed: must be from 0 to"),
        ("train: {steps: 0}", "test.yaml:1: train.steps: must be at least 1, not 0"),
        ("train: {compile: no}", "test.yaml:1: train.compile: must be true or false, not the string 'no'"),
        ("train: {compile: 1}", "test.yaml:1: train.compile: must be true or false, not 1"),
        ("train: {ema_halflife_kimg: .nan}", "test.yaml:1: train.ema_halflife_kimg: must be a finite number"),
        ("train: {ema_halflife_kimg: 1" + "0" * 400 + "}", "test.yaml:1: train.ema_halflife_kimg: must be a finite"),
        ("train: {ema_halflife_kimg: true}", "test.yaml:1: train.ema_halflife_kimg: must be a number, not true"),
        ("train: 5", "test.yaml:1: train: must be a mapping, not 5"),
        ("data: {root: 5}", "test.yaml:1: data.root: must be a string, not 5"),
        ("optimizer:\n  generator: {lr: fast}", "test.yaml:2: optimizer.generator.lr: must be a number, not the"),
        ("optimizer: {generator: {betas: 0.5}}", "test.yaml:1: optimizer.generator.betas: must be a list, not 0.5"),
        ("optimizer: {generator: {betas: [0.5]}}", "optimizer.generator.betas: must have 2 entries, not 1"),
        ("optimizer: {generator: {betas: [0, 1]}}", "optimizer.generator.betas[1]: must be from 0 to 0.999999"),
        ("optimizer: {schedule: cosin}", "test.yaml:1: optimizer.schedule: must be one of constant, linear, cosine"),
        ("optimizer: {schedule: cosin}", "did you mean 'cosine'?"),
        ("loss: hinj", "test.yaml:1: loss: unknown loss 'hinj' (choices: "),
        ("loss: hinj", "did you mean 'hinge'?"),
        ("loss: {name: 3}", "test.yaml:1: loss.name: must be a string, not 3"),
        ("loss: [hinge]", "test.yaml:1: loss: must be the name of a loss, or a mapping with its name and options"),
        (
            "discriminator:\n  normalization: conv_nrm",
            "test.yaml:2: discriminator.normalization: unknown normalization",
        ),
        ("regularizers:\n  r11: {}", "did you mean 'r1'?"),
        (
            "regularizers:",
            "test.yaml:1: regularizers: must be a mapping of names to options, not null; use NAME: null to remove one",
        ),
        ("regularizers: r1", "test.yaml:1: regularizers: must be a mapping of names to options, not the string 'r1'"),
        ("regularizers: {r1: {weight: -1}}", "test.yaml:1: regularizers.r1.weight: must be at least 0, not -1"),
        ("regularizers: {r1: {name: r1}}", "test.yaml:1: regularizers.r1.name: unknown key"),
        ('"two\\nlines": 1', "two lines: unknown key"),
    ],
)
def test_error_names_file_line_and_key(tmp_path, text, message):
    text = load_error(tmp_path, text)
    assert message in text
    assert "\n" not in text


def test_whole_number_may_have_an_exponent(tmp_path):
    config = load(tmp_path, "train: {steps: 1e5}", "train.batch_size=3.2e+1")
    assert (config.train.steps, type(config.train.steps), config.train.batch_size) == (100_000, int, 32)


OTHER_TYPES = {
    "GAN": (ClassifierConfig, "generator: {width: 8}", "test.yaml:1: generator: this is a config of a GAN; train it"),
    "base": (ClassifierConfig, "base: digits/dcgan", "yaml:2: generator: this is a config of a GAN; train"),
    "classifier": (
        Config,
        "labels: {noise: 1}\nclassifier: resnet10",
        "yaml:2: classifier: this is a config of a",
    ),
    "key of both": (Config, "generator: dcgan\nclassifier: stl10_48", "did you mean 'metrics.classifier'"),
    "no key of either": (Config, "labels: {noise: 1}", "labels: unknown key"),
}


@pytest.mark.parametrize(("schema", "text", "message"), OTHER_TYPES.values(), ids=OTHER_TYPES)
def test_config_of_another_type_is_named(tmp_path, schema, text, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text, schema=schema)


def test_error_in_base_file_names_the_base_file(tmp_path):
    (tmp_path / "base.yaml").write_text("seed: 1\ntrain: {stepz: 3}")
    assert load_error(tmp_path, "base: base.yaml").startswith("base.yaml:2: train.stepz: unknown key")


def test_error_in_override_repeats_the_override(tmp_path):
    assert load_error(tmp_path, "", "train.stepz=3").startswith("command line: train.stepz=3: train.stepz: unknown key")


def test_later_layer_changes_only_its_own_keys(tmp_path):
    (tmp_path / "base.yaml").write_text("seed: 7\ntrain: {steps: 10, batch_size: 4}\ndata: {resolution: 32}")
    config = load(tmp_path, "base: base.yaml\ntrain: {steps: 20}", "train.batch_size=5", "train.batch_size=6")
    assert (config.seed, config.data.resolution) == (7, 32)
    assert (config.train.steps, config.train.batch_size) == (20, 6)


def test_integer_is_accepted_as_float_and_null_as_none(tmp_path):
    config = load(tmp_path, "train: {ema_halflife_kimg: 3, generator_batch_size: null}")
    assert type(config.train.ema_halflife_kimg) is float
    assert config.train.generator_batch_size is None


def test_choice_is_a_name_or_a_mapping(tmp_path):
    assert load(tmp_path, "loss: nonsaturating") == load(tmp_path, "loss: {name: nonsaturating}")


def test_options_without_name_belong_to_the_default_choice(tmp_path):
    assert load(tmp_path, "shape: {radius: 2}", schema=Picture).shape == Circle(radius=2)


def test_same_choice_keeps_its_options(tmp_path):
    text = "shape: {name: square, side: 2}"
    assert load(tmp_path, text, "shape.name=square", "shape.color=blue", schema=Picture).shape == Square(
        side=2, color="blue"
    )


@pytest.mark.parametrize("change", ["shape.name=square", "shape=square", "shape={name: square}"])
@pytest.mark.parametrize("before", ["{name: circle, radius: 2, color: blue}", "{radius: 2, color: blue}"])
def test_other_choice_keeps_only_common_options(tmp_path, before, change):
    assert load(tmp_path, f"shape: {before}", change, schema=Picture).shape == Square(color="blue")


def test_option_of_old_choice_is_unknown_after_change(tmp_path):
    with pytest.raises(ConfigError, match=r"shape.radius: unknown key \(known here: color, side\)"):
        load(tmp_path, "shape: circle", "shape={name: square, radius: 2}", schema=Picture)


def test_error_raised_by_dataclass_has_its_line(tmp_path):
    with pytest.raises(ConfigError, match=r"test.yaml:2: shape: a side of 13 brings bad luck"):
        load(tmp_path, "layers: {}\nshape: {name: square, side: 13}", schema=Picture)


def test_null_removes_an_inherited_regularizer(tmp_path):
    text = "regularizers: {r1: {weight: 0.3, every: 2}}"
    assert load(tmp_path, text).regularizers["r1"].every == 2
    assert load(tmp_path, text, "regularizers.r1=null").regularizers == {}
    assert load(tmp_path, text, "regularizers.r1=null", "regularizers.r1.weight=0.5").regularizers["r1"].every == 1


def test_override_of_one_option_of_a_regularizer(tmp_path):
    config = load(tmp_path, "regularizers: {r1: {every: 2}}", "regularizers.r1.weight=0.3")
    assert (config.regularizers["r1"].weight, config.regularizers["r1"].every) == (0.3, 2)


# Random configs of the schema


ANY_NUMBER = Range()


def values(tp: Any, bounds: Range = ANY_NUMBER) -> st.SearchStrategy:
    bounds = next((extra for extra in getattr(tp, "__metadata__", ()) if isinstance(extra, Range)), bounds)
    if get_origin(tp) is Annotated:
        tp = get_args(tp)[0]
    origin, args = get_origin(tp), get_args(tp)
    if origin in (Union, UnionType):
        return st.one_of(st.none() if arg is NoneType else values(arg, bounds) for arg in args)
    if origin is Literal:
        return st.sampled_from(args)
    if origin is tuple and args[-1] is Ellipsis:
        return st.lists(values(args[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, args))
    if origin is dict:
        family = args[1].registry
        return st.fixed_dictionaries({}, optional={name: values(family.get(name)) for name in family})
    if is_family(tp):
        return st.one_of([values(tp.registry.get(name)) for name in tp.registry])
    if dataclasses.is_dataclass(tp):
        return dataclass_instances(tp, bounds)
    low, high = (None if abs(b) == float("inf") else b for b in (bounds.min, bounds.max))
    if tp is float:
        return st.floats(low, high, allow_nan=False, allow_infinity=False)
    if tp is int:
        return st.integers(max(low or 0, INT64.min), min(high or INT64.max, INT64.max))
    return {bool: st.booleans(), str: st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))}[tp]


@st.composite
def dataclass_instances(draw, cls, bounds):
    hints = get_type_hints(cls, include_extras=True)
    fields = {field.name: draw(values(hints[field.name], bounds)) for field in dataclasses.fields(cls)}
    try:
        return cls(**fields)
    except ValueError:  # raised by the dataclass's own checks
        return cls()


@settings(max_examples=30, deadline=None)
@given(config=values(Config))
def test_dump_and_load_round_trip(config, tmp_path_factory):
    config = dataclasses.replace(config, plugins=())  # no such modules
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_bytes(dump_config(config).encode())
    assert load_config(Config, path) == config


@pytest.mark.parametrize(
    "text", ["", "no", "null", "1e-4", "0x1F", " a ", "a: b", "#", "é", "a\nb", "\t", "\x85", "\u2028", "🙂"]
)
def test_string_round_trip(tmp_path, text):
    config = Config(data=Digits(root=text))
    assert load(tmp_path, dump_config(config)) == config


PIECES = """train loss data name steps hinge r1 base 1e-4 0x null \\U *a &a : - { } [ ] , !!int !x ' " | > % << #"""
words = st.sampled_from([*PIECES.split(" "), " ", "\n", "\n  "])


def gives_config_or_one_line_error(path: Path | None, overrides: list[str]) -> bool:
    try:
        return isinstance(load_config(Config, path, overrides), Config)
    except ConfigError as error:
        return len(str(error).splitlines()) == 1


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.text(), st.lists(st.one_of(words, st.text(max_size=3)), max_size=25).map("".join)))
def test_arbitrary_text_gives_config_or_one_line_error(text, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    assert gives_config_or_one_line_error(path, [])


@settings(max_examples=100, deadline=None)
@given(key=st.sampled_from(["seed", "train", "train.steps", "loss", "regularizers.r1", "x"]), text=st.text())
def test_arbitrary_override_gives_config_or_one_line_error(key, text):
    assert gives_config_or_one_line_error(None, [f"{key}={text}"])


@pytest.mark.parametrize("flip", [False, True])
def test_order_of_overrides_does_not_matter(tmp_path, flip):
    overrides = ["discriminator.normalization=spectral_conv", "discriminator.normalization.gain=2"]
    overrides += ["generator.name=sndcgan", "generator.width=4"]
    config = load_config(Config, None, overrides[::-1] if flip else overrides)
    assert config.discriminator.normalization.gain == 2
    assert config.generator.width == 4


# Old names of fields and classes


@dataclass(frozen=True, kw_only=True)
class Block:
    registry: ClassVar[Registry["Block"]] = Registry("block")
    size: int = field(default=1, metadata={"alias": "width"})
    """Size"""


@Block.registry.register("linear", aliases=["dense"])
@dataclass(frozen=True, kw_only=True)
class LinearBlock(Block):
    rank: int = 1
    """Rank"""


@Block.registry.register("sparse")
@dataclass(frozen=True, kw_only=True)
class SparseBlock(Block):
    density: float = field(default=0.5, metadata={"alias": "fraction"})
    """Density"""


@dataclass(frozen=True, kw_only=True)
class Model:
    depth: int = field(default=2, metadata={"alias": "layers"})
    """Depth"""
    block: Block = field(default_factory=LinearBlock)
    """Block"""
    heads: dict[str, Block] = field(default_factory=dict)
    """Heads"""


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("layers: 5", []),
        ("depth: 3", ["layers=5"]),
        ("layers: 3", ["depth=5"]),
        ("layers: 3", ["layers=4", "depth=5"]),
    ],
)
def test_renamed_field_has_one_value_by_either_name(tmp_path, text, overrides):
    config = load(tmp_path, text, *overrides, schema=Model)
    assert config == Model(depth=5)
    assert dump_config(config).startswith("depth: 5\n")


def test_renamed_field_in_base_file(tmp_path):
    (tmp_path / "base.yaml").write_text("layers: 3\nblock: {name: sparse, width: 7, fraction: 0.1}")
    config = load(tmp_path, "base: base.yaml\ndepth: 5\nblock: {density: 0.2}", schema=Model)
    assert config == Model(depth=5, block=SparseBlock(size=7, density=0.2))


def test_renamed_field_is_kept_when_another_class_has_it_too(tmp_path):
    config = load(tmp_path, "block: {name: sparse, width: 7, fraction: 0.1}", "block.name=linear", schema=Model)
    assert config == Model(block=LinearBlock(size=7))


def test_renamed_field_in_old_config_text():
    config = parse_config(Model, "layers: 5\nblock: {name: sparse, fraction: 0.1}", "config.yaml")
    assert config == Model(depth=5, block=SparseBlock(density=0.1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers: 1\ndepth: 1", "2: layers: this is the old name of 'depth', which is also set; remove one"),
        ("depth: 1\nlayers: 1", "2: layers: this is the old name of 'depth', which is also set; remove one"),
        ("block: {size: 1,\n  width: 2}", "2: block.width: this is the old name of 'size', which is also set"),
        ("heads: {dense: {},\n  linear: {}}", "2: heads.dense: this is the old name of 'linear', which is also set"),
        ("block: {width: x}", "1: block.size: must be a whole number, not the string 'x'"),
    ],
)
def test_error_in_renamed_field(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, schema=Model)
    assert f"test.yaml:{message}" in str(caught.value)


def test_help_shows_the_new_name_only():
    text = describe(Model)
    assert "  depth  (default: 2)\n" in text
    assert "layers" not in text


@pytest.mark.parametrize(("base", "child"), [("dense", "linear"), ("linear", "dense"), ("dense", "dense")])
def test_old_and_new_name_of_a_class_are_the_same_choice(tmp_path, base, child):
    (tmp_path / "base.yaml").write_text(f"block: {{name: {base}, rank: 3}}")
    config = load(tmp_path, f"base: base.yaml\nblock: {{name: {child}, size: 2}}", schema=Model)
    assert config == Model(block=LinearBlock(rank=3, size=2))
    assert "name: linear" in dump_config(config)
    heads = load(tmp_path, f"heads: {{{base}: {{rank: 3}}}}", f"heads.{child}.width=2", schema=Model).heads
    assert heads == {"linear": LinearBlock(rank=3, size=2)}
    assert load(tmp_path, f"heads: {{{base}: {{rank: 3}}}}", f"heads.{child}=null", schema=Model).heads == {}


def test_old_name_of_the_default_class_keeps_its_options(tmp_path):
    assert load(tmp_path, "block: {rank: 3}", "block.name=dense", schema=Model) == Model(block=LinearBlock(rank=3))


def test_old_names_in_shipped_networks(tmp_path):
    old = load(tmp_path, "generator: {name: resnet, bottom: 2}\ndiscriminator: sncnn")
    new = load(tmp_path, "generator: {name: resnet, base_size: 2}\ndiscriminator: sndcgan")
    assert old == new
    assert "base_size: 2" in dump_config(old)
    assert "name: sndcgan" in dump_config(old)
