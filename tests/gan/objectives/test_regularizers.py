import pytest
import torch
from torch import nn

from gan.objectives.regularizers import REGULARIZERS, Batch
from gan.objectives.regularizers.gradient import R1, R2, GradientPenalty


class Quadratic(nn.Module):
    """D(x) = c ||x||² / 2, whose gradient is c x; it records the labels of each call."""

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
    """D(x, y) is the sum of the outputs of a network for x."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, y=None):
        return self.network(x).sum(1)


def batch() -> Batch:
    x_real, x_fake = torch.randn(2, 5, 2, 3, 3, generator=random(), dtype=torch.float64)
    return Batch(x_real, torch.arange(5), x_fake, torch.arange(5, 10))


def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class LinearGenerator(nn.Module):
    """G(z, y) = A z, for any labels."""

    def __init__(self):
        super().__init__()
        self.A = nn.Parameter(torch.randn(3, 2, 3, 3, generator=random(), dtype=torch.float64))

    def forward(self, z, y=None):
        return torch.einsum("bk,kchw->bchw", z, self.A)


def in_training(D, regularizer) -> Batch:
    """Return a batch with everything that the training loop adds."""
    inputs = batch()
    D_real, D_fake = D(inputs.x_real, inputs.y_real).float(), D(inputs.x_fake, inputs.y_fake).float()
    source = {"G": LinearGenerator(), "z": torch.randn(5, 3, generator=random(), dtype=torch.float64)}
    return inputs._replace(logits_real=D_real, logits_fake=D_fake, state=regularizer.build_state(), **source)


@pytest.mark.parametrize(("penalty", "which"), [(R1(), 0), (R2(), 2)])
def test_r1_and_r2_equal_analytic_gradient(penalty, which):
    D, inputs = Quadratic(3.0), batch()
    value = penalty.penalty(D, inputs, random())
    square = inputs[which].square().sum(dim=(1, 2, 3)).mean().item()
    assert value.item() == pytest.approx(0.5 * 9 * square)
    assert D.labels == [inputs[which + 1]]
    value.backward()  # d/dc of ½ c² ||x||²
    assert D.c.grad.item() == pytest.approx(3 * square)


def test_r1_of_constant_network_is_zero_with_finite_derivative():
    D = Linear(torch.zeros(2, 3, 3, dtype=torch.float64))
    value = R1().penalty(D, batch(), random())
    value.backward()
    assert value.item() == 0
    assert not D.w.grad.any()


@pytest.mark.parametrize("norm", [1.0, 4.0])
@pytest.mark.parametrize("name", ["gradient_penalty", "dragan"])
def test_one_centered_penalties_of_linear_network(name, norm):
    w = torch.ones(2, 3, 3, dtype=torch.float64)
    D = Linear(norm * w / w.norm())
    value = REGULARIZERS.get(name)().penalty(D, batch(), random())
    assert value.item() == pytest.approx((norm - 1) ** 2, abs=1e-6)


def augmented_batch() -> Batch:
    """Return a batch whose augmentation doubles the real images and triples the fakes."""
    raw_real, raw_fake = (x.requires_grad_() for x in batch()[::2][:2])
    return Batch(2 * raw_real, torch.arange(5), 3 * raw_fake, torch.arange(5, 10), raw_real, raw_fake)


@pytest.mark.parametrize(("name", "scale"), [("r1", 2), ("r2", 3), ("gradient_penalty", 1), ("dragan", 1)])
def test_only_r1_and_r2_are_at_the_images_before_the_augmentation(name, scale):
    inputs = augmented_batch()
    plain = Batch(inputs.x_real, inputs.y_real, inputs.x_fake, inputs.y_fake)
    regularizer = REGULARIZERS.get(name)()
    D = Quadratic()
    expected = scale**2 * regularizer.penalty(D, plain, random()).item()
    value = regularizer.penalty(D, inputs, random())
    assert value.item() == pytest.approx(expected)
    value.backward()
    assert D.c.grad is not None


def test_gradient_penalty_uses_points_between_real_and_fake():
    apart = Batch(torch.full((99, 1, 1, 1), 1.0), None, torch.full((99, 1, 1, 1), 3.0), None)
    inputs = []

    class Recorder(Quadratic):
        def forward(self, x, y=None):
            inputs.append(x.detach())
            return super().forward(x, y)

    GradientPenalty().penalty(Recorder(), apart, random())
    (x,) = inputs
    assert x.min() > 1
    assert x.max() < 3
    assert x.max() - x.min() > 1.5


@pytest.mark.parametrize("name", list(REGULARIZERS))
def test_penalty_depends_on_generator_only_and_has_gradients(name):
    torch.manual_seed(0)
    D = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4, 2)).double()

    def value():
        regularizer = REGULARIZERS.get(name)(**({"start": 0} if name == "lecam" else {}))
        return regularizer.penalty(IgnoresLabels(D), in_training(IgnoresLabels(D), regularizer), random())

    before = torch.get_rng_state()
    first = value()
    first.backward()
    assert torch.equal(torch.get_rng_state(), before)
    assert first.item() == value().item() > 0
    assert all(p.grad.any() for p in D.parameters() if p.dim() > 1)


@pytest.mark.parametrize("name", ["r1", "r2", "gradient_penalty", "dragan"])
def test_gradient_penalty_of_a_network_without_labels(name):
    torch.manual_seed(0)
    column = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4, 1)).double()  # its forward is f(x)
    unlabelled = batch()._replace(y_real=None, y_fake=None)
    values = [
        REGULARIZERS.get(name)().penalty(D, inputs, random())
        for D, inputs in (
            (column, unlabelled),
            (nn.Sequential(column, nn.Flatten(0)), unlabelled),
            (IgnoresLabels(column), batch()),
        )
    ]
    assert values[0].item() == values[1].item() == values[2].item()
    with pytest.raises(ValueError, match=r"one logit per input, logits of shape \(5,\), but the shape is \(5, 4\)"):
        REGULARIZERS.get(name)().penalty(column[:3], unlabelled, random())


@pytest.mark.parametrize("name", list(REGULARIZERS))
def test_penalty_is_due_every_kth_step_if_weight_is_positive(name):
    cls = REGULARIZERS.get(name)
    assert [step for step in range(7) if cls(every=3).is_due(step)] == [0, 3, 6]
    assert not any(cls(weight=0).is_due(step) for step in range(7))
