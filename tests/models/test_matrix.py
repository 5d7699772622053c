"""Networks x normalizations x activation norms x labels: a pairwise cover of all combinations, at tiny width.

A fault in the interaction of two choices shows in any case that has both, so every pair is tested and not the whole
product. Generators and discriminators have a cover each. The fast tests cover one normalization of each kind: none, one
that reparametrizes weights, one that replaces layers, and one that wraps the network. `test_contract.py` tests the
others on each kind of layer.
"""

import copy
import dataclasses
import functools
import itertools

import pytest
import torch
from torch import nn

from models import DISCRIMINATORS, GENERATORS, ImageShape, build_discriminator, build_generator
from models.activation_norms import ACTIVATION_NORMS
from models.normalizations import NORMALIZATIONS
from tests.pairwise import pairwise_cover

TINY = {"width": 4, "blocks": 1, "group_size": 4, "z_dim": 8}
BATCH_SIZE, CHANNELS, RESOLUTION, NUM_CLASSES = 4, 3, 16, 3
REGISTRIES = {"generator": GENERATORS, "discriminator": DISCRIMINATORS}
BUILD = {"generator": build_generator, "discriminator": build_discriminator}
WITHOUT_ACTIVATION_NORM = {"r3gan"}  # families that accept no activation norm
FOR_DISCRIMINATORS = {"gradient"}  # normalizations that need one logit per image
FAST = {"none", "spectral", "conv_norm", "gradient"}  # normalizations
FAST_COMPILED = {("generator", "resnet"), ("discriminator", "r3gan")}


def build_config(kind: str, family: str, **options):
    cls = REGISTRIES[kind].get(family)
    names = {field.name for field in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in TINY.items() if name in names}, **options)


def is_valid(kind: str, family: str, normalization: str, activation: str) -> bool:
    accepts_activation = activation == "none" or family not in WITHOUT_ACTIVATION_NORM
    accepts_normalization = kind == "discriminator" or normalization not in FOR_DISCRIMINATORS
    return accepts_activation and accepts_normalization and not has_obstacle(kind, family, normalization)


@functools.cache
def build_plain(kind: str, family: str) -> nn.Module:
    return BUILD[kind](build_config(kind, family), ImageShape(CHANNELS, RESOLUTION))


@functools.cache
def has_obstacle(kind: str, family: str, name: str) -> bool:
    """Return whether a normalization refuses a layer of the network."""
    normalization = NORMALIZATIONS.get(name)()
    layers = [layer for layer in build_plain(kind, family).modules() if isinstance(layer, normalization.types)]
    return any(normalization.find_obstacle(layer) for layer in layers)


FAMILIES = [(kind, family) for kind, registry in REGISTRIES.items() for family in registry]
PRODUCT = {
    kind: [
        case
        for case in itertools.product([kind], registry, NORMALIZATIONS, ACTIVATION_NORMS, [None, NUM_CLASSES])
        if is_valid(*case[:4])
    ]
    for kind, registry in REGISTRIES.items()
}
COVER = {kind: pairwise_cover(cases) for kind, cases in PRODUCT.items()}
FAST_COVER = {kind: pairwise_cover([case for case in cases if case[2] in FAST]) for kind, cases in PRODUCT.items()}

families = pytest.mark.parametrize(("kind", "family"), FAMILIES)
cover = pytest.mark.parametrize(
    ("kind", "family", "normalization", "activation", "num_classes"),
    [
        pytest.param(*case, id="-".join(map(str, case)), marks=() if case in FAST_COVER[kind] else pytest.mark.slow)
        for kind in REGISTRIES
        for case in dict.fromkeys([*FAST_COVER[kind], *COVER[kind]])
    ],
)


def build(kind: str, family: str, normalization="none", activation="none", num_classes=None, seed=0) -> nn.Module:
    torch.manual_seed(seed)
    config = build_config(
        kind,
        family,
        normalization=NORMALIZATIONS.get(normalization)(),
        activation_norm=ACTIVATION_NORMS.get(activation)(),
    )
    return BUILD[kind](config, ImageShape(CHANNELS, RESOLUTION, num_classes))


def make_inputs(kind: str, num_classes: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    images = (BATCH_SIZE, CHANNELS, RESOLUTION, RESOLUTION)
    shape = (BATCH_SIZE, TINY["z_dim"]) if kind == "generator" else images
    y = None if num_classes is None else torch.tensor([0, 2, 1, 2])
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)), y


def check_output(kind: str, output: torch.Tensor):
    images = (BATCH_SIZE, CHANNELS, RESOLUTION, RESOLUTION)
    assert output.shape == (images if kind == "generator" else (BATCH_SIZE,))
    assert output.isfinite().all()


@pytest.mark.parametrize("kind", list(REGISTRIES))
def test_cover_has_every_pair_in_few_cases(kind):
    axes = range(len(PRODUCT[kind][0]))
    for i, j in itertools.combinations(axes, 2):
        assert {(case[i], case[j]) for case in COVER[kind]} == {(case[i], case[j]) for case in PRODUCT[kind]}
    assert set(COVER[kind]) < set(PRODUCT[kind])
    assert len(COVER[kind]) < len(PRODUCT[kind]) / 5


@cover
def test_gradients_copies_and_bf16(kind, family, normalization, activation, num_classes):
    network = build(kind, family, normalization, activation, num_classes)
    inputs = make_inputs(kind, num_classes)
    output = network(*inputs)  # changes the buffers from their initial values
    check_output(kind, output)
    (output * torch.randn_like(output)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), f"{name} has no gradient"

    restored = build(kind, family, normalization, activation, num_classes, seed=1)
    restored.load_state_dict(network.state_dict())
    average = copy.deepcopy(network).requires_grad_(False)
    expected = network.eval()(*inputs)
    assert torch.equal(restored.eval()(*inputs), expected)
    assert torch.equal(average.eval()(*inputs), expected)
    with torch.autocast("cpu", torch.bfloat16):
        check_output(kind, network.train()(*inputs))


@families
def test_wrong_labels_are_rejected(kind, family):
    x, y = make_inputs(kind, NUM_CLASSES)
    with pytest.raises(ValueError, match="unconditional"):
        build(kind, family)(x, y)
    with pytest.raises(ValueError, match="needs labels"):
        build(kind, family, num_classes=NUM_CLASSES)(x)


@pytest.mark.parametrize(
    ("kind", "family", "activation"),
    [
        (*case, activation)
        for case in FAMILIES
        for activation in ACTIVATION_NORMS
        if is_valid(*case, "none", activation)
    ],
)
def test_labels_change_the_output(kind, family, activation):
    network = build(kind, family, activation=activation, num_classes=NUM_CLASSES)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("norm") or ".norm" in name:  # scale and shift start the same for every class
                parameter.normal_()
    x, y = make_inputs(kind, NUM_CLASSES)
    assert not torch.allclose(network(x, y), network(x, (y + 1) % NUM_CLASSES))


@pytest.mark.parametrize("activation", [name for name in ACTIVATION_NORMS if name != "none"])
@pytest.mark.parametrize("kind", list(REGISTRIES))
@pytest.mark.parametrize("family", sorted(WITHOUT_ACTIVATION_NORM))
def test_unsupported_activation_norm_is_rejected(kind, family, activation):
    with pytest.raises(ValueError, match="activation_norm: none"):
        build_config(kind, family, activation_norm=ACTIVATION_NORMS.get(activation)())


def check_compiled(kind, family, normalization, num_classes, backend="aot_eager"):
    network = build(kind, family, normalization, num_classes=num_classes)
    compiled = torch.compile(copy.deepcopy(network), backend=backend)
    inputs = make_inputs(kind, num_classes)
    expected, output = network(*inputs), compiled(*inputs)
    torch.testing.assert_close(output, expected)
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in compiled.parameters())


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        pytest.param(*case, marks=() if case in FAST_COMPILED else pytest.mark.slow)  # the others are simpler
        for case in FAMILIES
    ],
)
def test_compiled(kind, family):
    """Dynamo alone; `test_compiled_with_each_normalization` compiles the backward pass, too."""
    check_compiled(kind, family, "none", NUM_CLASSES, backend="eager")


@pytest.mark.slow
# Where a graph breaks, Dynamo reads .grad of a tensor that is not a leaf, which warns.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize(
    ("kind", "family", "normalization"),
    [(*case, name) for case in FAMILIES for name in NORMALIZATIONS if is_valid(*case, name, "none")],
)
def test_compiled_with_each_normalization(kind, family, normalization):
    torch.compiler.reset()
    check_compiled(kind, family, normalization, NUM_CLASSES)
