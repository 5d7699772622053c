"""Every registered network x normalization x activation norm, unconditional and conditional, at tiny width."""

import copy
import dataclasses
import itertools

import pytest
import torch
from torch import nn

from models import DISCRIMINATORS, GENERATORS, ImageShape, build_discriminator, build_generator
from models.activation_norms import ACTIVATION_NORMS
from models.normalizations import NORMALIZATIONS

SMALL = {"width": 8, "blocks": 1, "group_size": 4, "z_dim": 8}
CLASSES = 3
KINDS = {"generator": (GENERATORS, build_generator), "discriminator": (DISCRIMINATORS, build_discriminator)}
FAMILIES = [(kind, family) for kind, (registry, _) in KINDS.items() for family in registry]

# Architectures without a place for an activation norm; they refuse any but none.
WITHOUT_ACTIVATION_NORM = {"r3gan"}

# Normalizations of one logit an image.
DISCRIMINATORS_ALONE = {"gradient"}

CASES = [
    pytest.param(
        kind, family, normalization, activation, classes, id=f"{kind}-{family}-{normalization}-{activation}-{classes}"
    )
    for (kind, family), normalization, activation, classes in itertools.product(
        FAMILIES, NORMALIZATIONS, ACTIVATION_NORMS, (None, CLASSES)
    )
    if (activation == "none" or family not in WITHOUT_ACTIVATION_NORM)
    and (kind == "discriminator" or normalization not in DISCRIMINATORS_ALONE)
]


def options(kind: str, family: str, **chosen):
    cls = KINDS[kind][0].get(family)
    names = {field.name for field in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in SMALL.items() if name in names}, **chosen)


def build(kind: str, family: str, normalization="none", activation="none", classes=None, seed=0) -> nn.Module:
    torch.manual_seed(seed)
    config = options(
        kind,
        family,
        normalization=NORMALIZATIONS.get(normalization)(),
        activation_norm=ACTIVATION_NORMS.get(activation)(),
    )
    return KINDS[kind][1](config, ImageShape(3, 16, classes))


def example(kind: str, classes: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    random = torch.Generator().manual_seed(1)
    shape = (4, SMALL["z_dim"]) if kind == "generator" else (4, 3, 16, 16)
    y = None if classes is None else torch.tensor([0, 2, 1, 2])
    return torch.randn(shape, generator=random), y


def shape_of(kind: str) -> tuple[int, ...]:
    return (4, 3, 16, 16) if kind == "generator" else (4,)


@pytest.mark.parametrize(("kind", "family", "normalization", "activation", "classes"), CASES)
def test_forward_and_backward(kind, family, normalization, activation, classes):
    network = build(kind, family, normalization, activation, classes)
    output = network(*example(kind, classes))
    assert output.shape == shape_of(kind)
    assert output.isfinite().all()
    (output * torch.randn_like(output)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), f"{name} has no gradient"


@pytest.mark.parametrize(("kind", "family", "normalization", "activation", "classes"), CASES)
def test_save_load_copy_and_bf16(kind, family, normalization, activation, classes):
    network = build(kind, family, normalization, activation, classes)
    inputs = example(kind, classes)
    network(*inputs)  # moves buffers away from where they start
    restored = build(kind, family, normalization, activation, classes, seed=1)
    restored.load_state_dict(network.state_dict())
    average = copy.deepcopy(network).requires_grad_(False)
    expected = network.eval()(*inputs)
    assert torch.equal(restored.eval()(*inputs), expected)
    assert torch.equal(average.eval()(*inputs), expected)
    with torch.autocast("cpu", torch.bfloat16):
        output = network.train()(*inputs)
    assert output.shape == shape_of(kind)
    assert output.isfinite().all()


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
def test_labels_must_fit(kind, family):
    x, y = example(kind, CLASSES)
    with pytest.raises(ValueError, match="unconditional"):
        build(kind, family)(x, y)
    with pytest.raises(ValueError, match="needs labels"):
        build(kind, family, classes=CLASSES)(x)


@pytest.mark.parametrize("activation", list(ACTIVATION_NORMS))
@pytest.mark.parametrize(("kind", "family"), FAMILIES)
def test_labels_matter(kind, family, activation):
    if family in WITHOUT_ACTIVATION_NORM:
        activation = "none"
    network = build(kind, family, activation=activation, classes=CLASSES)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("norm") or ".norm" in name:  # a class's scale and shift start as every other's
                parameter.normal_()
    x, y = example(kind, CLASSES)
    assert not torch.allclose(network(x, y), network(x, (y + 1) % CLASSES))


@pytest.mark.parametrize("activation", [name for name in ACTIVATION_NORMS if name != "none"])
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("family", sorted(WITHOUT_ACTIVATION_NORM))
def test_an_activation_norm_without_a_place_is_refused(kind, family, activation):
    with pytest.raises(ValueError, match="activation_norm: none"):
        options(kind, family, activation_norm=ACTIVATION_NORMS.get(activation)())


def check_compiled(kind, family, normalization, classes):
    network = build(kind, family, normalization, classes=classes)
    compiled = torch.compile(copy.deepcopy(network), backend="aot_eager")
    inputs = example(kind, classes)
    expected, output = network(*inputs), compiled(*inputs)
    torch.testing.assert_close(output, expected)
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in compiled.parameters())


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
def test_compiled(kind, family):
    check_compiled(kind, family, "none", CLASSES)


@pytest.mark.slow
# Dynamo looks at .grad of a non-leaf where a graph breaks, which warns.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize(
    ("kind", "family", "normalization"),
    [
        (kind, family, normalization)
        for (kind, family), normalization in itertools.product(FAMILIES, NORMALIZATIONS)
        if kind == "discriminator" or normalization not in DISCRIMINATORS_ALONE
    ],
)
def test_compiled_with_each_normalization(kind, family, normalization):
    torch.compiler.reset()
    check_compiled(kind, family, normalization, CLASSES)
