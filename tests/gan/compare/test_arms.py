import re

import pytest

from gan.compare.arms import Arm, build_arms, build_cells, parse_arm, parse_axis, parse_seeds
from gan.runtime.errors import UserError


def get_names(axes, *named):
    return [arm.name for arm in build_arms([parse_axis(axis) for axis in axes], [parse_arm(arm) for arm in named])]


def test_axis_values_are_yaml_flow_items_as_written():
    axis = parse_axis("key=a,{b: [1, 2], c: d},[3, 4],'x,y', 1e-3 ,null,it's")
    assert axis.values == ("a", "{b: [1, 2], c: d}", "[3, 4]", "'x,y'", "1e-3", "null", "it's")


def test_arm_overrides_are_kept_as_written():
    arm = parse_arm("bn: a.b=batch,c={d: 1, e: 2}, f=[0.0, 0.9],g='x,y',h=1e-3")
    assert arm.name == "bn"
    assert arm.overrides == ("a.b=batch", "c={d: 1, e: 2}", "f=[0.0, 0.9]", "g='x,y'", "h=1e-3")


def test_name_of_choice_has_its_options():
    axis = "discriminator.normalization=none,{name: conv_norm, stride: paper},{name: conv_norm, affine: false}"
    assert get_names([axis]) == ["none", "conv_norm,stride=paper", "conv_norm,affine=false"]


def test_numbers_and_null_are_named_with_their_key():
    assert get_names(["optimizer.discriminator.lr=1e-3,3e-3"]) == ["lr=1e-3", "lr=3e-3"]
    assert get_names(["regularizers.r1=null,{weight: 0.5, every: 4}"]) == ["r1=null", "r1=weight=0.5,every=4"]
    assert get_names(["optimizer.generator.betas=[0.0, 0.9],[0.5, 0.99]"]) == ["betas=0.0_0.9", "betas=0.5_0.99"]
    assert get_names(["a.b={c: {d: [1e-3, null]}, e: true}"]) == ["b=c=d_0.001_null,e=true"]
    assert get_names(["discriminator.x=wide,{name: deep, y: 1},2"]) == ["x=wide", "x=deep,y=1", "x=2"]


def test_ambiguous_words_are_named_with_their_key():
    axes = ["discriminator.normalization=none,spectral", "discriminator.activation_norm=none,batch"]
    assert get_names(axes) == [
        "none,activation_norm=none",
        "none,activation_norm=batch",
        "spectral,activation_norm=none",
        "spectral,activation_norm=batch",
    ]
    assert get_names(["optimizer.generator.lr=1e-3", "optimizer.discriminator.lr=2e-3"]) == [
        "generator.lr=1e-3,discriminator.lr=2e-3"
    ]


def test_keys_can_share_values():
    (arm,) = build_arms([parse_axis("optimizer.generator.lr,optimizer.discriminator.lr=1e-3")], [])
    assert arm.name == "lr=1e-3"
    assert arm.overrides == ("optimizer.generator.lr=1e-3", "optimizer.discriminator.lr=1e-3")


def test_named_arms_follow_the_product():
    arms = build_arms([parse_axis("discriminator.normalization=none")], [parse_arm("bn:a.b=batch,c={d: 1, e: 2}")])
    assert [(arm.name, arm.overrides) for arm in arms] == [
        ("none", ("discriminator.normalization=none",)),
        ("bn", ("a.b=batch", "c={d: 1, e: 2}")),
    ]
    assert get_names([], "plain") == ["plain"]
    assert get_names([]) == ["base"]


@pytest.mark.parametrize(
    "name",
    get_names(["x.y='a b/c',../up,[1, 2],{name: conv_norm, stride: paper}", "z=1e-3,+1"], "sp ace/x:", "(a|b)*:"),
)
def test_name_is_a_file_name_and_matches_itself_as_a_regular_expression(name):
    assert "/" not in name
    assert not name.startswith(".")
    assert re.fullmatch(name, name)


@pytest.mark.parametrize(
    "text", ["key", "=1", "key=", "key=1,,2", "key=1,", "key=,1", "key=1,1", ",=1", "key={a: 1", "key=a]"]
)
def test_malformed_axis_is_a_user_error(text):
    with pytest.raises(UserError, match="^--vary " + re.escape(text)):
        parse_axis(text)


def test_arm_without_name_is_a_user_error():
    with pytest.raises(UserError, match="expected NAME:key=value"):
        parse_arm(" :a=1")


@pytest.mark.parametrize("text", ["a", "0,,1", "0,0", "-1", "1.5"])
def test_malformed_seeds_are_a_user_error(text):
    with pytest.raises(UserError, match="--seeds"):
        parse_seeds(text)


def test_repeated_arm_names_and_axis_keys_are_user_errors():
    with pytest.raises(UserError, match="two arms have the name spectral"):
        get_names(["discriminator.normalization=spectral"], "spectral:loss=hinge")
    with pytest.raises(UserError, match=r"--vary a\.b: the key is repeated"):
        get_names(["a.b=1", "a.b=2"])


def test_cells_have_their_config_and_seeds_are_the_outer_loop(tiny_config):
    arms = build_arms([parse_axis("discriminator.normalization=none,{name: conv_norm, stride: paper}")], [])
    cells = build_cells(tiny_config, ["train.steps=7"], arms, [3, 1])
    assert [cell.name for cell in cells] == [
        "none-seed3",
        "conv_norm,stride=paper-seed3",
        "none-seed1",
        "conv_norm,stride=paper-seed1",
    ]
    assert all(cell.config.train.steps == 7 and cell.config.seed == cell.seed for cell in cells)
    assert cells[1].config.discriminator.normalization.stride == "paper"
    assert cells[0].overrides == ("train.steps=7", "discriminator.normalization=none", "seed=3")


def test_config_error_names_the_arm(tiny_config):
    with pytest.raises(UserError, match=r"arm bad: .*unknown normalization 'conv_nrom'.*conv_norm"):
        build_cells(tiny_config, [], [parse_arm("bad:discriminator.normalization=conv_nrom")], [0])
    for overrides in ("x=1,", "discriminator.normalization=none,", "train.steps=1,,train.batch_size=2", "loss={a: 1"):
        with pytest.raises(UserError, match="arm bad: "):
            build_cells(tiny_config, [], [parse_arm(f"bad:{overrides}")], [0])


def test_arms_may_not_differ_in_how_they_are_evaluated(tmp_path, tiny_config):
    name = "metrics.classifier=cifar10_jpeg"
    (cell,) = build_cells(tiny_config, [name], [parse_arm("a:loss=hinge")], [0])
    assert cell.config.metrics.classifier.startswith("cifar10_jpeg@")
    for override, key in (
        (name, "metrics.classifier"),
        ("metrics={classifier: gone}", "metrics.classifier"),
        ("eval.metrics=[fid10k_train]", "eval.metrics"),
        ("eval={metrics: []}", "eval.metrics"),
    ):
        with pytest.raises(UserError, match=rf"^arm a: arms cannot differ in how they are evaluated \({key}\)"):
            build_cells(tiny_config, [], [Arm("base"), Arm("a", (override,))], [0])


def test_seed_override_is_a_user_error(tiny_config):
    with pytest.raises(UserError, match="--seeds"):
        build_cells(tiny_config, ["seed=4"], [parse_arm("base")], [0])
    with pytest.raises(UserError, match="--seeds"):
        build_cells(tiny_config, [], [parse_arm("a:loss=hinge,seed=4")], [0])
