import re

import pytest

from gan.compare.arms import build_arms, build_cells, parse_arm, parse_axis, parse_seeds, split
from gan.runtime.errors import UserError


def names(axes, *named):
    return [arm.name for arm in build_arms([parse_axis(axis) for axis in axes], [parse_arm(arm) for arm in named])]


def test_commas_within_brackets_and_quotes_do_not_split():
    assert split("a,{b: [1, 2], c: d},[3, 4],'x,y'") == ["a", "{b: [1, 2], c: d}", "[3, 4]", "'x,y'"]


def test_a_choice_is_called_by_its_name_and_options():
    axis = "discriminator.normalization=none,{name: conv_norm, stride: paper},{name: conv_norm, affine: false}"
    assert names([axis]) == ["none", "conv_norm,stride=paper", "conv_norm,affine=false"]


def test_numbers_and_null_are_called_by_their_key():
    assert names(["optimizer.discriminator.lr=1e-3,3e-3"]) == ["lr=1e-3", "lr=3e-3"]
    assert names(["regularizers.r1=null,{weight: 0.5, every: 4}"]) == ["r1=null", "r1=weight=0.5,every=4"]
    assert names(["optimizer.generator.betas=[0.0, 0.9],[0.5, 0.99]"]) == ["betas=0.0_0.9", "betas=0.5_0.99"]


def test_two_axes_are_joined_and_no_word_means_two_things():
    axes = ["discriminator.normalization=none,spectral", "discriminator.activation_norm=none,batch"]
    assert names(axes) == [
        "none,activation_norm=none",
        "none,activation_norm=batch",
        "spectral,activation_norm=none",
        "spectral,activation_norm=batch",
    ]
    assert names(["optimizer.generator.lr=1e-3", "optimizer.discriminator.lr=2e-3"]) == [
        "generator.lr=1e-3,discriminator.lr=2e-3"
    ]


def test_keys_that_change_together():
    (arm,) = build_arms([parse_axis("optimizer.generator.lr,optimizer.discriminator.lr=1e-3")], [])
    assert arm.name == "lr=1e-3"
    assert arm.overrides == ("optimizer.generator.lr=1e-3", "optimizer.discriminator.lr=1e-3")


def test_named_arms_stand_beside_the_product():
    arms = build_arms([parse_axis("discriminator.normalization=none")], [parse_arm("bn:a.b=batch,c={d: 1, e: 2}")])
    assert [(arm.name, arm.overrides) for arm in arms] == [
        ("none", ("discriminator.normalization=none",)),
        ("bn", ("a.b=batch", "c={d: 1, e: 2}")),
    ]
    assert names([], "plain") == ["plain"]
    assert names([]) == ["base"]


@pytest.mark.parametrize(
    "name", names(["x.y='a b/c',../up,[1, 2],{name: conv_norm, stride: paper}", "z=1e-3,+1"], "sp ace/x:", "(a|b)*:")
)
def test_names_are_safe_for_file_systems_and_for_tensorboards_filter(name):
    assert "/" not in name
    assert not name.startswith(".")
    assert re.fullmatch(name, name), "as a regular expression it finds itself"


@pytest.mark.parametrize("text", ["key", "=1", "key=", "key=1,,2", "key=1,1", ",=1"])
def test_a_malformed_axis_is_a_user_error(text):
    with pytest.raises(UserError, match="--vary"):
        parse_axis(text)


@pytest.mark.parametrize("text", ["a", "0,,1", "0,0", "-1", "1.5"])
def test_malformed_seeds_are_a_user_error(text):
    with pytest.raises(UserError, match="--seeds"):
        parse_seeds(text)


def test_arms_of_one_name_and_axes_of_one_key_are_user_errors():
    with pytest.raises(UserError, match="two arms would be called spectral"):
        names(["discriminator.normalization=spectral"], "spectral:loss=hinge")
    with pytest.raises(UserError, match=r"--vary a\.b: stands twice"):
        names(["a.b=1", "a.b=2"])


def test_cells_have_their_config_and_seeds_are_outermost(tiny_config):
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


def test_a_bad_key_names_its_arm_and_the_seed_is_not_for_overrides(tiny_config):
    with pytest.raises(UserError, match=r"arm bad: .*unknown normalization 'conv_nrom'.*conv_norm"):
        build_cells(tiny_config, [], [parse_arm("bad:discriminator.normalization=conv_nrom")], [0])
    with pytest.raises(UserError, match="--seeds"):
        build_cells(tiny_config, ["seed=4"], [parse_arm("base")], [0])
