import math

import pytest
import torch

from gan.objectives.losses import LOSSES, Hinge, LeastSquares, Minimax, NonSaturating, Relativistic, Wasserstein

REAL = torch.tensor([2.0, 0.5, -1.0], dtype=torch.float64)
FAKE = torch.tensor([-3.0, 0.0, 1.5], dtype=torch.float64)


def log_sigmoid(x: float) -> float:
    return -math.log(1 + math.exp(-x))


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


PAIRS = list(zip(REAL.tolist(), FAKE.tolist(), strict=True))

CLOSED_FORMS = {
    "hinge": ((0 + 0.5 + 2) / 3 + (0 + 1 + 2.5) / 3, 1.5 / 3),
    "nonsaturating": (
        -mean(log_sigmoid(r) for r, _ in PAIRS) - mean(math.log(1 - 1 / (1 + math.exp(-f))) for _, f in PAIRS),
        -mean(log_sigmoid(f) for _, f in PAIRS),
    ),
    "minimax": (
        -mean(log_sigmoid(r) for r, _ in PAIRS) - mean(math.log(1 - 1 / (1 + math.exp(-f))) for _, f in PAIRS),
        mean(math.log(1 - 1 / (1 + math.exp(-f))) for _, f in PAIRS),
    ),
    "wasserstein": (-0.5 - 0.5, 0.5),
    "least_squares": ((1 + 0.25 + 4) / 6 + (9 + 0 + 2.25) / 6, (16 + 1 + 0.25) / 6),
    "relativistic": (-mean(log_sigmoid(r - f) for r, f in PAIRS), -mean(log_sigmoid(f - r) for r, f in PAIRS)),
}


@pytest.mark.parametrize("name", list(LOSSES))
def test_loss_equals_closed_form(name):
    loss = LOSSES.get(name)()
    d_loss, g_loss = CLOSED_FORMS[name]
    real = REAL if loss.generator_sees_real else None
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx(d_loss, rel=1e-12)
    assert loss.generator(FAKE, real).item() == pytest.approx(g_loss, rel=1e-12)


@pytest.mark.parametrize("name", list(LOSSES))
def test_gradients_of_generator_and_discriminator_have_opposite_signs(name):
    loss = LOSSES.get(name)()
    real, fake = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    d_real, d_fake = torch.autograd.grad(loss.discriminator(real, fake), (real, fake))
    (g_fake,) = torch.autograd.grad(loss.generator(fake, real), fake)
    assert (d_real < 0).all()
    assert (d_fake >= 0).all()
    assert (g_fake < 0).all()


@pytest.mark.parametrize("loss", [Hinge(), NonSaturating(), Minimax(), Relativistic(), Wasserstein(), LeastSquares()])
def test_extreme_logits_stay_finite(loss):
    far = torch.tensor([1e4])
    for real, fake in ((far, -far), (-far, far)):
        assert loss.discriminator(real, fake).isfinite()
        assert loss.generator(fake, real).isfinite()


def test_minimax_saturates_and_is_a_zero_sum_game():
    def gradient(loss):
        fake = torch.tensor([-20.0, 20.0], requires_grad=True)
        return torch.autograd.grad(loss.generator(fake), fake)[0].tolist()

    assert gradient(Minimax()) == pytest.approx([0, -0.5], abs=1e-8)  # nothing to learn from detected fakes
    assert gradient(NonSaturating()) == pytest.approx([-0.5, 0], abs=1e-8)
    fake = FAKE.clone().requires_grad_()
    of_D = torch.autograd.grad(Minimax().discriminator(REAL, fake), fake)[0]
    of_G = torch.autograd.grad(Minimax().generator(fake), fake)[0]
    assert torch.equal(of_G, -of_D)


def test_pairs_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(3, 1\) are no pairs"):
        Relativistic().discriminator(REAL[:, None], FAKE)
    with pytest.raises(ValueError, match="are no pairs"):
        Relativistic().generator(FAKE[:, None], REAL)
    for loss in (Relativistic(), LeastSquares()):
        value = loss.discriminator(REAL[:, None], FAKE[:, None])
        assert value.item() == loss.discriminator(REAL, FAKE).item()
