"""Training steps whose options follow schedules."""

import pytest
import torch

from gan.training.ema import get_averaging_weight
from gan.training.step import prepare_step, training_step
from tests.gan.runs import same

# Of 64 images: four steps of two updates of D with 8 images each.
STEPS = ("train.steps=4", "train.n_critic=2", "train.batch_size=8")
LINEAR = "schedule: linear, kimg: 0.032"  # half of the training


def step_to(experiment, step):
    experiment.step = step
    prepare_step(experiment)
    return experiment


def test_values_of_a_step_are_those_of_its_first_image(build):
    experiment = build(
        *STEPS,
        f"optimizer.generator.lr={{start: 1, end: 0.5, {LINEAR}}}",
        f"optimizer.discriminator.betas=[{{start: 0, end: 0.8, {LINEAR}}}, {{start: 0.9, end: 0.8, {LINEAR}}}]",
        f"regularizers.r1.weight={{start: 0.1, end: 0.3, {LINEAR}}}",
        f"train.ema_halflife_kimg={{start: 0, end: 0.016, {LINEAR}}}",
        "train.augment=[ada]",
        f"train.ada={{p: {{start: 0, end: 0.5, {LINEAR}}}, target: null}}",
    )
    for step, progress in enumerate((0, 0.5, 1, 1)):
        step_to(experiment, step)
        assert experiment.optimizer_G.param_groups[0]["lr"] == 1 - 0.5 * progress
        assert experiment.optimizer_G.param_groups[0]["betas"] == (0.5, 0.999)
        assert experiment.optimizer_D.param_groups[0]["lr"] == 2e-4
        betas = experiment.optimizer_D.param_groups[0]["betas"]
        assert betas == pytest.approx((0.8 * progress, 0.9 - 0.1 * progress))
        assert experiment.scheduled.penalty_weights["r1"].item() == pytest.approx(0.1 + 0.2 * progress)
        decay = 0.5 ** (8 / (16 * progress)) if progress else 0.0
        assert experiment.scheduled.ema_weight.item() == pytest.approx(1 - decay)
        assert experiment.ada.p.item() == pytest.approx(0.5 * progress)


def test_weight_of_the_average_equals_the_authors_code():
    # 0.5 ** (batch_size / max(cur_ema_nimg, 1e-8)) of training_loop.py, commit 19a7ddf of brownvc/R3GAN
    assert get_averaging_weight(512, 732.2863624328458) == pytest.approx(1 - 0.9995154827507212, rel=1e-9)
    assert get_averaging_weight(512, 0.0) == 1.0


def constant(value):
    return f"{{start: {value}, end: {value}, kimg: 1}}"


@pytest.mark.parametrize("halflife", [0, 0.02])
def test_schedules_that_do_not_change_compute_the_same_bits(build, halflife):
    keys = ("optimizer.discriminator.lr", "regularizers.r1.weight", "regularizers.zcr.weight", "train.ada.p")
    values = (0.5**7, 0.25, 0.5, 0.25)  # powers of two, of which sums of parts are exact
    others = (
        *STEPS,
        "regularizers.r1.every=1",
        "train.augment=[ada]",
        "train.ada.target=null",
        "optimizer.generator.lr=0.01",
    )
    states = []
    for write in (str, constant):
        options = [f"{key}={write(value)}" for key, value in zip(keys, values, strict=True)]
        options += [f"train.ema_halflife_kimg={write(halflife)}"]
        experiment = build(*others, *options, f"optimizer.generator.betas=[0.0, {write(0.5)}]")
        losses = [training_step(experiment, experiment.G, experiment.D) for _ in range(3)]
        states.append((experiment.state_dict(), losses))
    assert same(*states)


@pytest.mark.parametrize("key", ["r1", "zcr"])
def test_weights_of_penalties_change_the_updates(build, key):
    """The penalty of D, and the part of zCR for G, have the weight of the step."""
    states = []
    for weight in ("{start: 0, end: 1, kimg: 0.032, schedule: linear}", "0.5", "0.25"):
        experiment = build(*STEPS, "regularizers.r1=null", f"regularizers.{key}.weight={weight}")
        step_to(experiment, 1)
        training_step(experiment, experiment.G, experiment.D)
        states.append({network: getattr(experiment, network).state_dict() for network in ("G", "D")})
    for network in ("G", "D"):
        assert same(states[0][network], states[1][network])
    assert not same(states[1]["D"], states[2]["D"])


def test_weight_of_the_average_may_be_a_tensor(build):
    experiment = build()
    before = [parameter.clone() for parameter in experiment.ema.network.parameters()]
    with torch.no_grad():
        for parameter in experiment.G.parameters():
            parameter += 1
    experiment.ema.update(experiment.G, torch.tensor(0.25))
    for old, new in zip(before, experiment.ema.network.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)
