"""The updates of G and D, against the code of the papers' authors."""

import math
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gan.objectives.regularizers.gradient import R1, R2
from gan.training.step import training_step, update_discriminator, update_generator
from models.normalizations.spectral import DividedBySpectralNorm


def sines(*shape, scale=1.0):
    return scale * torch.sin(torch.arange(1.0, math.prod(shape) + 1, dtype=torch.float64).square()).view(shape)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(sines(5, 3, 6, 6, scale=0.3))
        self.embedding = nn.Parameter(sines(4, 5))

    def forward(self, x, y):
        features = torch.tanh(torch.einsum("bchw,fchw->bf", x.double(), self.weight))
        return (features * self.embedding[y]).sum(dim=1)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(sines(4, 3, 6, 6))
        self.embedding = nn.Parameter(sines(4, 4))

    def forward(self, z, y):
        return torch.tanh(torch.einsum("bk,kchw->bchw", z + self.embedding[y], self.weight))


Y_REAL, Y_FAKE = torch.tensor([0, 1, 2, 3, 3, 1]), torch.zeros(6, dtype=torch.int64)


@pytest.fixture
def make(build):
    """Return a function that returns the networks above as an experiment, and the inputs of an update."""

    def make(*overrides):
        built = build("data.conditional=true", "train.channels_last=false", *overrides)
        G, D = Generator(), Discriminator()
        experiment = SimpleNamespace(
            config=built.config,
            device=torch.device("cpu"),
            G=G,
            D=D,
            optimizer_G=torch.optim.SGD(G.parameters(), lr=0.0),
            optimizer_D=torch.optim.SGD(D.parameters(), lr=0.0),
            scaler_G=built.scaler_G,
            scaler_D=built.scaler_D,
            regularizer_states=built.regularizer_states,
            ada=built.ada,
            scheduled=built.scheduled,
        )
        part = SimpleNamespace(
            as_shard=nullcontext,
            real_images=lambda: (sines(6, 3, 6, 6, scale=0.9).float(), Y_REAL),
            latents=lambda: (sines(6, 4), Y_FAKE),
            augmentation=torch.Generator().manual_seed(0),
            penalty=torch.Generator().manual_seed(0),
        )
        return experiment, SimpleNamespace(parts=[part])

    return make


# Loss, ½ E||∇D(x)||² at the real and at the fake images, and the gradient's norm of AccumulateDiscriminatorGradients
# with Gamma 0.5; loss and gradient's norm of AccumulateGeneratorGradients. R3GAN/Trainer.py, commit 19a7ddf of
# brownvc/R3GAN, with the networks in double precision, the labels of the real images as Conditions, and as Preprocessor
# `augment` in single precision with a generator of seed 0 for each update.
AUTHORS = {
    "[]": (
        (0.7553174539430646, 2.9326763346663474, 0.6248014956928462, 4.079055306843051),
        (1.2322221668386721, 0.4744600681386098),
    ),
    "[color]": (
        (0.7788449466324364, 2.790925602097737, 0.18076352150129427, 4.526621337543014),
        (1.0672216710365336, 0.38935871533984123),
    ),
    "[color, translation, cutout]": (
        (1.1667406305821697, 2.223819126588702, 1.493386354499532, 5.669023149919741),
        (0.8852980072979282, 0.40779790135585353),
    ),
}


@pytest.mark.parametrize("names", AUTHORS)
def test_discriminator_update_equals_the_authors_code(make, monkeypatch, names):
    """Both images of a pair have the label of the real one; penalties are at the images before the augmentation."""
    loss, r1, r2, gradient = AUTHORS[names][0]
    overrides = (
        f"train.augment={names}",
        "loss=relativistic",
        "regularizers={r1: {weight: 0.5, every: 1}, r2: {weight: 0.5}}",
    )
    experiment, inputs = make(*overrides)
    values = []
    for cls in (R1, R2):

        def penalty(*arguments, original=cls.penalty):
            values.append(original(*arguments))
            return values[-1]

        monkeypatch.setattr(cls, "penalty", penalty)
    losses = update_discriminator(experiment, experiment.G, experiment.D, inputs, ("r1", "r2"))
    assert losses["loss/D"].item() == pytest.approx(loss, rel=1e-5)
    assert [value.item() for value in values] == pytest.approx([r1, r2], rel=1e-5)
    assert experiment.D.weight.grad.norm().item() == pytest.approx(gradient, rel=1e-5)


@pytest.mark.parametrize("names", AUTHORS)
def test_generator_update_equals_the_authors_code(make, names):
    loss, gradient = AUTHORS[names][1]
    experiment, inputs = make(f"train.augment={names}", "loss=relativistic")
    assert update_generator(experiment, experiment.G, experiment.D, inputs)["loss/G"].item() == pytest.approx(
        loss, rel=1e-5
    )
    assert experiment.G.weight.grad.norm().item() == pytest.approx(gradient, rel=1e-5)


def test_other_losses_draw_the_labels_of_fakes(make):
    experiment, inputs = make("loss=hinge")
    losses = update_discriminator(experiment, experiment.G, experiment.D, inputs, ())
    expected = experiment.D(experiment.G(sines(6, 4), Y_FAKE), Y_FAKE).mean().item()
    assert losses["logits/fake"].item() == pytest.approx(expected, rel=1e-5)


def test_power_iterations_of_a_training_step(build, monkeypatch):
    """D sees real and fake images together: 5 + 1 power iterations, where separate passes would do 2 * 5 + 1."""
    experiment = build("discriminator.normalization=spectral", "train.n_critic=5", "regularizers={r1: null}")
    counts = Counter()
    original = DividedBySpectralNorm._iterate

    def count(self, matrix, iterations):
        counts[self] += iterations
        original(self, matrix, iterations)

    monkeypatch.setattr(DividedBySpectralNorm, "_iterate", count)
    training_step(experiment, experiment.G, experiment.D)
    assert set(counts.values()) == {6}
