"""Activation norms compared with their formulas."""

import pytest
import torch
from torch import nn

from models.activation_norms import ACTIVATION_NORMS
from models.activation_norms.base import ClassConditional
from models.normalizations import normalize

CLASSES = 5


def make_input(channels: int = 6) -> torch.Tensor:
    return 3 * torch.randn(4, channels, 5, 5, generator=torch.Generator().manual_seed(0)) + 2


def build_norm(name: str, channels: int = 6, num_classes: int | None = None, **options) -> nn.Module:
    return ACTIVATION_NORMS.get(name)(**options).build(channels, num_classes)


def standardize(x: torch.Tensor, dims: tuple[int, ...], eps: float = 1e-5) -> torch.Tensor:
    return (x - x.mean(dims, keepdim=True)) / (x.var(dims, keepdim=True, correction=0) + eps).sqrt()


# The axes of (B, C, H, W) over which each norm computes mean and variance.
AXES = {"batch": (0, 2, 3), "layer": (1, 2, 3), "instance": (2, 3)}


@pytest.mark.parametrize("name", list(AXES))
def test_statistics(name):
    x = make_input()
    torch.testing.assert_close(build_norm(name)(x), standardize(x, AXES[name]))


def test_group_statistics():
    x = make_input()
    expected = standardize(x.unflatten(1, (3, 2)), (2, 3, 4)).flatten(1, 2)
    torch.testing.assert_close(build_norm("group", groups=3)(x), expected)


def test_none_is_the_identity():
    x = make_input()
    assert build_norm("none")(x) is x


@pytest.mark.parametrize("name", [*AXES, "group"])
def test_scale_and_shift_per_channel(name):
    module = build_norm(name)
    assert {key: tuple(p.shape) for key, p in module.named_parameters()} == {"weight": (6,), "bias": (6,)}
    x = make_input()
    before = module(x)
    with torch.no_grad():
        module.weight.copy_(torch.arange(6.0))
        module.bias.copy_(torch.arange(6.0) - 2)
    scale = torch.arange(6.0)[:, None, None]
    torch.testing.assert_close(module(x), before * scale + scale - 2)


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 24), (16, 16), (7, 7), (37, 1), (96, 32)])
def test_number_of_groups_is_the_largest_divisor(channels, groups):
    assert build_norm("group", channels).num_groups == groups


def test_group_norm_of_few_channels_equals_instance_norm():
    x = make_input()
    torch.testing.assert_close(build_norm("group")(x), build_norm("instance")(x))


@pytest.mark.parametrize("name", list(ACTIVATION_NORMS))
def test_unconditional_norm_ignores_labels(name):
    x, y = make_input(), torch.tensor([0, 1, 2, 3])
    module = build_norm(name).eval()
    assert torch.equal(module(x, y), module(x))


@pytest.mark.parametrize("name", list(ACTIVATION_NORMS))
def test_conditional_norm_initially_equals_unconditional_norm(name):
    x, y = make_input(), torch.tensor([4, 0, 0, 2])
    torch.testing.assert_close(build_norm(name, num_classes=CLASSES)(x, y), build_norm(name)(x))


@pytest.mark.parametrize("name", list(ACTIVATION_NORMS))
def test_conditional_scale_and_shift_per_class(name):
    x, y = make_input(), torch.tensor([4, 0, 0, 2])
    module = build_norm(name, num_classes=CLASSES)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    gamma, beta = module.weight.detach(), module.bias.detach()
    plain = build_norm(name)(x)
    expected = torch.stack([gamma[c][:, None, None] * plain[i] + beta[c][:, None, None] for i, c in enumerate(y)])
    torch.testing.assert_close(module(x, y).detach(), expected.detach())


def test_conditional_batch_norm_uses_statistics_of_the_whole_batch():
    x, y = make_input(), torch.tensor([0, 0, 1, 1])
    conditional, plain = build_norm("batch", num_classes=2), build_norm("batch")
    conditional(x, y)
    plain(x)
    torch.testing.assert_close(conditional.norm.running_mean, plain.running_mean)
    torch.testing.assert_close(conditional.norm.running_var, plain.running_var)
    assert conditional.norm.weight is None
    torch.testing.assert_close(conditional.eval()(x, y), plain.eval()(x))


@pytest.mark.parametrize("normalization", ["spectral", "conv_norm"])
def test_weight_normalizations_do_not_change_scale_and_shift(normalization):
    module = nn.Sequential(build_norm("batch", num_classes=CLASSES), nn.Conv2d(6, 6, 1))
    normalize(module, normalization)
    assert isinstance(module[0], ClassConditional)
    assert torch.equal(module[0].weight, torch.ones(CLASSES, 6))
    assert not nn.utils.parametrize.is_parametrized(module[0])


@pytest.mark.parametrize("name", list(ACTIVATION_NORMS))
def test_conditional_norm_keeps_bfloat16(name):
    module = build_norm(name, num_classes=CLASSES)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(make_input().bfloat16(), torch.tensor([4, 0, 0, 2])).dtype == torch.bfloat16


def test_initial_gains_of_classes():
    torch.manual_seed(0)
    module = build_norm("batch", channels=100, num_classes=CLASSES, class_gain_std=0.02)
    assert module.weight.mean().item() == pytest.approx(1, abs=0.005)
    assert module.weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert not module.bias.any()
    assert torch.equal(build_norm("batch", class_gain_std=0.02).weight, torch.ones(6))


@pytest.fixture
def process_group():
    """Initialize a process group with a single process."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("num_classes", [None, CLASSES])
def test_batch_norm_across_one_process_equals_batch_norm(process_group, num_classes):
    alone, across = (build_norm("batch", num_classes=num_classes, eps=0.3, momentum=0.2) for _ in range(2))
    for module in across.modules():
        module.across_processes = True
    y = torch.arange(4)
    weight = torch.randn(make_input().shape, generator=torch.Generator().manual_seed(1))
    results = []
    for module in (alone, across):
        x = make_input().requires_grad_(True)
        out = module(x, y)
        (gradient,) = torch.autograd.grad((out * weight).sum(), x, create_graph=True)
        second = torch.autograd.grad(gradient.square().sum(), [x, *module.parameters()], allow_unused=True)
        results.append((out, gradient, second, module.state_dict(), module.eval()(x, y)))
    torch.testing.assert_close(*results)


def test_batch_norm_across_processes_keeps_the_dtype(process_group):
    module = build_norm("batch")
    module.across_processes = True
    assert module(make_input().bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(module.running_var, 1 + 0.1 * (make_input().bfloat16().float().var(dim=(0, 2, 3)) - 1))
