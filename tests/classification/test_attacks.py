import warnings

import pytest
import torch
from torch import nn

from classification.attacks import fgsm, pgd, random_start
from models import ImageShape, build_classifier
from models.networks.classifiers import ResNet10Config

EPS, STEP = 8 / 255, 2 / 255


@pytest.fixture(scope="module")
def foolbox():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports scipy.ndimage.filters
        import foolbox

        return foolbox


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return build_classifier(ResNet10Config(width=8), ImageShape(3, 8, 5)).eval()


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    x = torch.rand(12, 3, 8, 8, generator=random)
    x[:3] = x[:3].round()  # at the boundaries of [0, 1]
    return x, torch.randint(5, (12,), generator=random)


def test_fgsm_equals_foolbox(foolbox, network, batch):
    x, y = batch
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    expected = foolbox.attacks.LinfFastGradientAttack().run(
        model, x, foolbox.criteria.Misclassification(y), epsilon=EPS
    )
    torch.testing.assert_close(fgsm(network, x, y, EPS), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("iterations", [1, 7])
def test_pgd_equals_foolbox(foolbox, network, batch, iterations):
    x, y = batch
    start = random_start(x, EPS, torch.Generator().manual_seed(2))

    class FromStart(foolbox.attacks.LinfProjectedGradientDescentAttack):
        def get_random_start(self, x0, epsilon):
            return type(x0)(start)

    attack = FromStart(abs_stepsize=STEP, steps=iterations)
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    expected = attack.run(model, x, foolbox.criteria.Misclassification(y), epsilon=EPS)
    torch.testing.assert_close(pgd(network, x, y, EPS, STEP, iterations, start), expected, rtol=0, atol=1e-5)


def test_attacks_stay_in_their_ball_and_increase_the_loss(network, batch):
    x, y = batch
    start = random_start(x, EPS, torch.Generator().manual_seed(3))
    attacked = pgd(network, x, y, EPS, STEP, 10, start)
    for images in (start, attacked, fgsm(network, x, y, EPS)):
        assert (images - x).abs().max() <= EPS + 1e-6
        assert images.min() >= 0
        assert images.max() <= 1
    assert (start - x).abs().max() > 0.9 * EPS

    def loss(images):
        return nn.functional.cross_entropy(network(images), y)

    assert loss(attacked) > loss(fgsm(network, x, y, EPS)) > loss(x)


def test_attack_on_linear_classifier_is_exact():
    """The margin of a linear network decreases by at most eps times the 1-norm of the difference of its rows."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    x, y = torch.full((1, 1, 4, 4), 0.5).double(), torch.tensor([1])
    difference = network[1].weight[1] - network[1].weight[0]

    def margin(images):
        logits = network(images)[0]
        return (logits[1] - logits[0]).item()

    exact = margin(x) - EPS * difference.abs().sum().item()
    assert margin(fgsm(network, x, y, EPS)) == pytest.approx(exact)
    assert margin(pgd(network, x, y, EPS, EPS / 2, 4, x)) == pytest.approx(exact)
