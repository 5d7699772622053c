import pytest
import torch
from torch import nn

from gan.objectives.regularizers import REGULARIZERS, Batch
from gan.objectives.regularizers.gradient import R1, R2, GradientPenalty


class Quadratic(nn.Module):
    """D(x) = c ||x||² / 2, whose gradient is c x; it keeps the labels that it is given."""

    def __init__(self, c: float = 3.0):
        super().__init__()
        self.c = nn.Parameter(torch.tensor(c, dtype=torch.float64))
        self.labels = []

    def forward(self, x, y=None):
        self.labels.append(y)
        return self.c / 2 * x.square().sum(dim=(1, 2, 3))


class Linear(nn.Module):
    """D(x) = <w, x>, whose gradient is w everywhere."""

    def __init__(self, w: torch.Tensor):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x, y=None):
        return (self.w * x).sum(dim=(1, 2, 3))


class IgnoresLabels(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, y=None):
        return self.network(x)


def batch() -> Batch:
    x_real, x_fake = torch.randn(2, 5, 2, 3, 3, generator=random(), dtype=torch.float64)
    return Batch(x_real, torch.arange(5), x_fake, torch.arange(5, 10))


def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("penalty", "which"), [(R1(), 0), (R2(), 2)])
def test_r1_and_r2_equal_the_analytic_gradient_on_real_and_fake_images(penalty, which):
    D, shown = Quadratic(3.0), batch()
    value = penalty.penalty(D, shown, random())
    square = shown[which].square().sum(dim=(1, 2, 3)).mean().item()
    assert value.item() == pytest.approx(0.5 * 9 * square)
    assert D.labels == [shown[which + 1]]
    value.backward()  # d/dc of ½ c² ||x||²
    assert D.c.grad.item() == pytest.approx(3 * square)


def test_r1_of_a_network_without_gradient_is_zero_and_has_a_finite_derivative():
    D = Linear(torch.zeros(2, 3, 3, dtype=torch.float64))
    value = R1().penalty(D, batch(), random())
    value.backward()
    assert value.item() == 0
    assert not D.w.grad.any()


@pytest.mark.parametrize("norm", [1.0, 4.0])
@pytest.mark.parametrize("name", ["gradient_penalty", "dragan"])
def test_one_centered_penalties_of_a_linear_map(name, norm):
    w = torch.ones(2, 3, 3, dtype=torch.float64)
    D = Linear(norm * w / w.norm())
    value = REGULARIZERS.get(name)().penalty(D, batch(), random())
    assert value.item() == pytest.approx((norm - 1) ** 2, abs=1e-6)


def test_the_gradient_penalty_looks_between_real_and_fake():
    apart = Batch(torch.full((99, 1, 1, 1), 1.0), None, torch.full((99, 1, 1, 1), 3.0), None)
    seen = []

    class Spy(Quadratic):
        def forward(self, x, y=None):
            seen.append(x.detach())
            return super().forward(x, y)

    GradientPenalty().penalty(Spy(), apart, random())
    (x,) = seen
    assert x.min() > 1
    assert x.max() < 3
    assert x.max() - x.min() > 1.5


@pytest.mark.parametrize("name", list(REGULARIZERS))
def test_a_penalty_is_a_function_of_its_generator_and_reaches_the_weights(name):
    torch.manual_seed(0)
    D = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4, 2)).double()

    def value():
        return REGULARIZERS.get(name)().penalty(IgnoresLabels(D), batch(), random())

    before = torch.get_rng_state()
    first = value()
    first.backward()
    assert torch.equal(torch.get_rng_state(), before)
    assert first.item() == value().item() > 0
    assert all(p.grad.any() for p in D.parameters() if p.dim() > 1)


@pytest.mark.parametrize("name", list(REGULARIZERS))
def test_lazy_penalties_are_due_every_kth_step_and_never_without_weight(name):
    cls = REGULARIZERS.get(name)
    assert [step for step in range(7) if cls(every=3).due(step)] == [0, 3, 6]
    assert not any(cls(weight=0).due(step) for step in range(7))
