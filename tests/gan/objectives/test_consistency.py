import pytest
import torch
from torch import nn

from gan.objectives.augment import flip, translation
from gan.objectives.regularizers import Batch
from gan.objectives.regularizers.consistency import BalancedConsistency, LatentConsistency


class LinearD(nn.Module):
    """D(x, y) = <w_y, x>."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(10, 3, 8, 8, generator=random(1)))

    def forward(self, x, y):
        return (self.w[y] * x).sum(dim=(1, 2, 3))


class LinearG(nn.Module):
    """G(z, y) = A_y z."""

    def __init__(self):
        super().__init__()
        self.A = nn.Parameter(torch.randn(10, 4, 3, 8, 8, generator=random(2)))

    def forward(self, z, y):
        return torch.einsum("bk,bkchw->bchw", z, self.A[y])


def random(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def D():
    return LinearD()


@pytest.fixture
def batch(D):
    x_real, (y_real, y_fake) = torch.randn(6, 3, 8, 8, generator=random(3)), torch.arange(12).remainder(10).view(2, 6)
    G, z = LinearG(), torch.randn(6, 4, generator=random(4))
    x_fake = G(z, y_fake).detach()
    logits = {"logits_real": D(x_real, y_real), "logits_fake": D(x_fake, y_fake)}
    return Batch(x_real, y_real, x_fake, y_fake, G=G, z=z, **logits)


def test_bcr_is_the_squared_change_of_the_logits_under_the_augmentation(D, batch):
    value = BalancedConsistency(lambda_real=3, lambda_fake=7).penalty(D, batch, random(0))
    numbers, expected = random(0), 0.0
    for factor, x, y in ((3, batch.x_real, batch.y_real), (7, batch.x_fake, batch.y_fake)):
        change = x - translation(flip(x, numbers), numbers)
        expected += factor * (D.w[y] * change).sum(dim=(1, 2, 3)).square().mean().item()
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert value.item() > 100
    value.backward()  # the derivative of a quadratic form: <w, gradient> is twice its value, through both logits
    assert (D.w * D.w.grad).sum().item() == pytest.approx(2 * expected, rel=1e-4)


def test_bcr_augments_the_images_before_another_augmentation(D, batch):
    raw_real, raw_fake = (torch.zeros_like(batch.x_real, requires_grad=True) for _ in range(2))
    augmented = batch._replace(raw_real=raw_real, raw_fake=raw_fake)
    value = BalancedConsistency(lambda_fake=0).penalty(D, augmented, random(0))
    assert value.item() == pytest.approx(10 * batch.logits_real.square().mean().item())
    value.backward()
    assert raw_real.grad is None


def test_bcr_of_an_invariant_discriminator_is_zero(batch):
    class Mean(nn.Module):
        def forward(self, x, y):
            return x.mean(dim=(1, 2, 3))

    same = batch._replace(logits_real=batch.x_real.mean(dim=(1, 2, 3)), logits_fake=batch.x_fake.mean(dim=(1, 2, 3)))
    assert BalancedConsistency(augment=("flip",)).penalty(Mean(), same, random(0)).item() < 1e-10
    assert BalancedConsistency(augment=("translation",)).penalty(Mean(), same, random(0)).item() > 1e-4


def test_zcr_is_the_squared_change_by_noise_in_the_latents(D, batch):
    regularizer = LatentConsistency(sigma=0.1, lambda_gen=0.5, lambda_dis=20)
    G, z, y = batch.G, batch.z, batch.y_fake
    change = G(0.1 * torch.randn(6, 4, generator=random(0)), y)

    value = regularizer.penalty(D, batch, random(0))
    expected = 20 * (D.w[y] * change).sum(dim=(1, 2, 3)).square().mean().item()
    assert value.item() == pytest.approx(expected, rel=1e-3)
    value.backward()
    assert (D.w * D.w.grad).sum().item() == pytest.approx(2 * expected, rel=1e-2)
    assert G.A.grad is None

    value = regularizer.generator_penalty(G, z, y, G(z, y), random(0))
    expected = -0.5 * change.square().mean().item()
    assert value.item() == pytest.approx(expected, rel=1e-4)
    value.backward()
    assert (G.A * G.A.grad).sum().item() == pytest.approx(2 * expected, rel=1e-3)


def test_zcr_without_noise_is_zero(D, batch):
    regularizer = LatentConsistency(sigma=0)
    G, z, y = batch.G, batch.z, batch.y_fake
    assert regularizer.penalty(D, batch, random(0)).item() == 0
    assert regularizer.generator_penalty(G, z, y, G(z, y), random(0)).item() == 0
