"""Which layers a normalization applies to: patterns, types, and what is left as it is."""

import copy
import logging
from logging.handlers import BufferingHandler

import pytest
from torch import nn
from torch.nn.utils import parametrize

from models.normalizations import NORMALIZATIONS, build_normalization, describe_untouched, normalize
from models.normalizations.selection import untouched_parameters

LAYERWISE = sorted(set(NORMALIZATIONS) - {"none", "gradient"})
names = pytest.mark.parametrize("name", LAYERWISE)


class Network(nn.Module):
    """Layers that normalizations accept, and others with weights."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.rnn = nn.LSTM(4, 3)
        self.attention = nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(4, 2)


def is_changed(layer):
    return type(layer) not in {nn.Conv2d, nn.Linear}


@pytest.fixture
def records():
    """Return the list of what is logged in the test."""
    handler = BufferingHandler(capacity=100)
    logging.getLogger().addHandler(handler)
    yield handler.buffer
    logging.getLogger().removeHandler(handler)


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


REFUSED = {
    "include_nothing": ({"include": ["no_such*"]}, r"include: 'no_such\*' matches no layer"),
    "include_typo": ({"include": ["haed"]}, "include: 'haed' matches no layer; did you mean 'head'"),
    "exclude_typo": ({"exclude": ["haed"]}, "exclude: 'haed' matches no layer; did you mean 'head'"),
    "one_pattern_of_two": ({"exclude": ["head", "haed"]}, "exclude: 'haed' matches no layer"),
    "container": ({"exclude": ["body"]}, r"exclude: 'body' matches no layer; 'body.\*' matches the layers in it"),
    "module_without_parameters": ({"exclude": ["body.2"]}, "exclude: 'body.2' matches no layer"),
    "unsupported": ({"include": ["rnn"]}, r"cannot normalize rnn \(LSTM\): \w+ accepts Conv1d, .*Linear, Embedding"),
    "one_unsupported_of_two": ({"include": ["head", "body.1"]}, r"cannot normalize body.1 \(BatchNorm2d\)"),
    "type": ({"types": (nn.LSTM,)}, "cannot normalize LSTM"),
    "one_type_of_two": ({"types": (nn.Linear, nn.Bilinear)}, "cannot normalize Bilinear"),
    "everything_excluded": ({"exclude": ["*"]}, "finds no layer to normalize in Network"),
    "type_without_layers": ({"types": (nn.Conv3d,)}, "finds no layer to normalize in Network"),
}


@pytest.mark.parametrize(("choice", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_choices_change_nothing(choice, message):
    network = Network()
    before = state(network)
    for name in LAYERWISE:
        with pytest.raises(ValueError, match=message):
            normalize(network, name, **choice)
        assert state(network).keys() == before.keys()
        assert not any(map(is_changed, (network.body[0], network.head))), name


@pytest.mark.parametrize("key", ["include", "exclude"])
def test_a_string_is_no_sequence_of_patterns(key):
    for normalization, choice in (("spectral", {key: "head"}), (build_normalization("none", **{key: "head"}), {})):
        with pytest.raises(TypeError, match=r"write \['head'\] instead of 'head'"):
            normalize(Network(), normalization, **choice)


@pytest.mark.parametrize(
    "network",
    [
        nn.LSTM(2, 3),
        nn.Sequential(nn.Bilinear(2, 2, 2), nn.ReLU()),
        nn.Sequential(nn.ReLU()),
        nn.BatchNorm2d(2),
    ],
    ids=lambda network: type(network).__name__,
)
def test_a_network_without_layers_to_normalize_is_refused(network):
    for name in LAYERWISE:
        with pytest.raises(ValueError, match="finds no layer to normalize"):
            normalize(copy.deepcopy(network), name)
    assert normalize(network, "none") is network


def test_patterns_of_no_normalization_are_checked():
    with pytest.raises(ValueError, match="exclude: 'haed' matches no layer"):
        normalize(Network(), "none", exclude=["haed"])


@names
def test_include_of_the_call_replaces_that_of_the_options(name):
    network = normalize(Network(), build_normalization(name, include=("body.*",)), include=["head"])
    assert is_changed(network.head)
    assert not is_changed(network.body[0])


@names
def test_types_choose_layers(name):
    network = normalize(Network(), name, types=(nn.Conv2d,))
    assert is_changed(network.body[0])
    assert not is_changed(network.head)


def test_different_normalizations_for_different_layers():
    network = normalize(Network(), "conv_norm", types=(nn.Conv2d,))
    network = normalize(network, "spectral", exclude=["body.0"])
    assert type(network.body[0]).__name__ == "ConvNorm2d"
    assert parametrize.is_parametrized(network.head)


@names
def test_untouched_parameters_are_reported_once(name, records):
    network = normalize(Network(), name)
    left = ["rnn.weight_ih_l0", "rnn.weight_hh_l0", "attention.in_proj_weight"]
    (record,) = records
    sizes = 12 * 4 + 12 * 3 + 12 * 4, sum(parameter.numel() for parameter in network.parameters())
    assert record.getMessage() == (
        f"{name}: 3 weights with {sizes[0]} of {sizes[1]} parameters are not normalized: {', '.join(left)}"
    )
    untouched = untouched_parameters(network)
    assert set(left) < set(untouched)
    assert "attention.in_proj_bias" in untouched
    assert not any("parametrizations" in path or path.startswith("body.0.conv") for path in untouched)
    assert all(network.get_parameter(path) is parameter for path, parameter in untouched.items())


def test_network_without_values_is_not_reported(records):
    normalize(Network().to("meta"), "weight")
    assert not records


@pytest.mark.parametrize(
    "choice",
    [
        {"exclude": ["rnn", "attention*"]},
        {"include": ["head", "body.0"]},
        {"types": (nn.Linear,), "exclude": ["rnn", "attention*"]},
    ],
    ids=str,
)
def test_what_is_left_out_on_purpose_is_not_reported(choice, records):
    network = normalize(Network(), "spectral", **choice)
    assert not records
    note = describe_untouched(network, build_normalization("spectral"))
    assert note is not None
    assert "rnn.weight_ih_l0" in note
    assert describe_untouched(network, build_normalization("none")) is None


def test_a_fully_normalized_network_is_not_reported(records):
    network = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 1))
    normalize(network, "spectral")
    assert not records
    assert describe_untouched(network, build_normalization("spectral")) is None
    assert set(untouched_parameters(network)) == {"0.bias", "1.weight", "1.bias", "2.bias"}


def test_types_of_each_normalization():
    for name in LAYERWISE:
        for layer_type in build_normalization(name).types:
            layer = layer_type(2, 2) if layer_type in (nn.Linear, nn.Embedding) else layer_type(2, 2, 3)
            assert normalize(layer, name) is not None
    convolutions = build_normalization("conv_norm", variant="authors")
    with pytest.raises(ValueError, match=r"cannot normalize head \(Linear\): conv_norm accepts Conv1d"):
        normalize(Network(), convolutions, include=["head"])
    assert not is_changed(normalize(Network(), convolutions).head)
