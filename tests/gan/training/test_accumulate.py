"""Updates whose batches are divided into parts, against those of the whole batch."""

import pytest
import torch
from torch import nn

from gan.runtime.errors import UserError
from gan.training.step import prepare_step, training_step, update_discriminator, update_generator
from tests.gan.runs import same


class Networks(nn.Module):
    """A generator or a discriminator of images (B, 1, 16, 16) without batch statistics, in double precision."""

    def __init__(self, inputs, outputs):
        super().__init__()
        random = torch.Generator().manual_seed(outputs)
        self.weight = nn.Parameter(torch.randn(inputs, outputs, generator=random, dtype=torch.float64) / inputs**0.5)

    def forward(self, x):
        y = torch.tanh(x.double().flatten(1) @ self.weight)
        return y.unflatten(1, (1, 16, 16)) if y.shape[1] == 256 else y.sum(dim=1)


def compute(build, accumulate, *overrides, double=True):
    """Return the gradients of both networks and all numbers, of the first update of each."""
    batches = ("train.batch_size=8", "train.generator_batch_size=8", "train.channels_last=false")
    experiment = build(*batches, f"train.accumulate={accumulate}", *overrides)
    if double:
        experiment.G, experiment.D = Networks(8, 256), Networks(256, 5)
        experiment.optimizer_G = torch.optim.SGD(experiment.G.parameters(), lr=0.0)
        experiment.optimizer_D = torch.optim.SGD(experiment.D.parameters(), lr=0.0)
    prepare_step(experiment)
    G, D, inputs = experiment.G, experiment.D, experiment.step_inputs
    numbers = update_discriminator(experiment, G, D, inputs.discriminator[0], tuple(experiment.config.regularizers))
    gradients = [p.grad.clone() for p in D.parameters()]
    numbers |= update_generator(experiment, G, D, inputs.generator)
    return [*gradients, *(p.grad for p in G.parameters()), *numbers.values()]


RECIPES = {
    "penalties with random numbers": [
        "regularizers={gradient_penalty: {}, bcr: {}, zcr: {}, r1: {weight: {start: 1, end: 0}}}",
        "train.augment=[color, translation, cutout, flip]",
        "data={horizontal_flip: true, dequantize: true}",
    ],
    "relativistic, ada": [
        "loss=relativistic",
        "regularizers={r1: {weight: 1}, r2: {}}",
        "train.augment=[ada]",
        "train.ada={p: 0.5, kimg: 0.1, every: 1, cutout: 1}",
    ],
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("accumulate", [2, 8])
def test_gradients_and_numbers_are_those_of_the_whole_batch(build, recipe, accumulate):
    """The networks have double precision. Images, logits and losses have single precision."""
    whole, parts = compute(build, 1, *recipe), compute(build, accumulate, *recipe)
    for expected, value in zip(whole, parts, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("normalization", ["gradient", "conv_norm"])
def test_normalized_networks(build, normalization):
    options = ["generator.activation_norm=none", f"discriminator.normalization={normalization}"]
    options += ["loss=relativistic", "regularizers.srip={}"]
    whole, parts = (compute(build, n, *options, double=False) for n in (1, 4))
    for expected, value in zip(whole, parts, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-6 + 1e-5 * expected.abs().max().item())


def test_scaled_losses_of_fp16_have_the_same_gradients(build):
    scales = []
    for accumulate in (1, 2):
        options = ("generator.activation_norm=none", "discriminator.normalization=conv_norm")
        experiment = build(f"train.accumulate={accumulate}", *options)
        experiment.scaler_D = torch.amp.GradScaler("cpu", init_scale=8.0)
        prepare_step(experiment)
        update_discriminator(experiment, experiment.G, experiment.D, experiment.step_inputs.discriminator[0], ("r1",))
        scales.append([p.grad for p in experiment.D.parameters()])
    for expected, value in zip(*scales, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())


def test_a_step_with_parts_can_be_repeated(build):
    """Each step is a function of the seed and the step, and the parts have the same random numbers every time."""
    losses = []
    for _ in range(2):
        experiment = build("train.accumulate=4", "train.augment=[ada]", "regularizers.zcr={}")
        losses.append([training_step(experiment, experiment.G, experiment.D) for _ in range(2)])
    assert same(*losses)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.accumulate=3"], r"batch_size=8 cannot be divided evenly among 1 x 3 parts .*; use a multiple of 3"),
        (["train.accumulate=2", "train.generator_batch_size=5"], r"generator_batch_size=5 cannot be divided evenly"),
        (
            ["train.accumulate=2", "regularizers.lecam={}"],
            r"regularizers\.lecam: it remembers numbers of whole batches",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(build, overrides, message):
    with pytest.raises(UserError, match=message):
        build(*overrides)
