from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from classification.config import FreeConfig, SGDConfig, TrainConfig
from classification.step import draw_batch, training_step
from gan.objectives.regularizers.weight import OrthogonalConvolution
from gan.options.schedules import Schedule

FREE = TrainConfig(steps=6, batch_size=16, free=FreeConfig(replays=3, eps=8, step=5))


def read_learning_rates(build, steps: int, **options) -> list[float]:
    experiment = build(optimizer=SGDConfig(lr=0.5, **options), train=TrainConfig(steps=steps, batch_size=16))
    rates = []
    for _ in range(steps):
        training_step(experiment, *draw_batch(experiment))
        rates.append(experiment.optimizer.param_groups[0]["lr"])
    return rates


def test_step_schedule_equals_torch(build):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5], gamma=0.1)
    expected = []
    for _ in range(8):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert read_learning_rates(build, 8, schedule="step", milestones=(2, 5)) == pytest.approx(expected)
    assert read_learning_rates(build, 3, schedule="step") == [0.5, 0.5, 0.5]


def test_cosine_schedule(build):
    expected = [0.5, 0.5 * 0.853553, 0.25, 0.5 * 0.146447]
    assert read_learning_rates(build, 4, schedule="cosine") == pytest.approx(expected, rel=1e-5)


def test_batch_is_replayed(build):
    experiment = build(train=FREE)
    batches = []
    for experiment.step in range(7):
        batches.append(draw_batch(experiment)[0])
    for step, other in ((0, 1), (0, 2), (3, 5)):
        assert torch.equal(batches[step], batches[other])
    for step, other in ((2, 3), (5, 6)):
        assert not torch.equal(batches[step], batches[other])


def test_batch_has_training_images_scaled_to_0_1(build):
    experiment = build()
    sets = experiment.sets
    x, _ = draw_batch(experiment)
    allowed = {tuple(image.flatten().tolist()) for image in sets.train.images[sets.rows]}
    assert {tuple((255 * image).round().to(torch.uint8).flatten().tolist()) for image in x} <= allowed
    assert x.min() == 0
    assert x.max() == 1


def test_translation_pads_with_black(build):
    experiment = build(train=TrainConfig(batch_size=16, augment=("translation",)))
    experiment.sampler.images = torch.full_like(experiment.sampler.images, 200)
    x, _ = draw_batch(experiment)
    torch.testing.assert_close(x.unique(), torch.tensor([0, 200 / 255]))


@pytest.mark.parametrize("reset", [False, True])
def test_free_adversarial_training_equals_algorithm_1(build, reset):
    """Shafahi et al.: one backward pass, at the weights before the update, updates the weights and the perturbation.

    With `reset`, as in trainer/adv_trainer.py of shengliu66/ConvNorm, each batch starts without perturbation.
    """
    options = SGDConfig(lr=0.1, momentum=0.0, weight_decay=0.0, schedule="step")
    train = replace(FREE, free=replace(FREE.free, reset=reset))
    experiment, reference = (build(train=train, optimizer=options) for _ in range(2))
    experiment.network.train()
    reference.network.train()
    delta = torch.zeros_like(experiment.delta)
    parameters = list(reference.network.parameters())
    for step in range(6):
        experiment.step = reference.step = step
        x, y = draw_batch(experiment)
        training_step(experiment, x, y)
        if reset and step == 3:  # the first update on the second batch
            delta = torch.zeros_like(delta)
        noise = delta.clone().requires_grad_(True)
        loss = F.cross_entropy(reference.network((x + noise).clamp(0, 1)), y)
        *gradients, noise_gradient = torch.autograd.grad(loss, [*parameters, noise])
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.1 * gradient
        delta = (delta + 5 / 255 * noise_gradient.sign()).clamp(-8 / 255, 8 / 255)
        torch.testing.assert_close(experiment.delta, delta, rtol=0, atol=1e-7)
    assert delta.abs().max().item() == pytest.approx(8 / 255)
    for parameter, expected in zip(experiment.network.parameters(), parameters, strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-5)


def test_standard_training_has_no_perturbation(build):
    experiment = build()
    experiment.network.train()
    training_step(experiment, *draw_batch(experiment))
    assert not experiment.delta.any()


def test_weight_of_a_penalty_follows_its_schedule(build):
    def compute_gradient(weight):
        train = TrainConfig(steps=4, batch_size=16)
        experiment = build(train=train, regularizers={"ocnn": OrthogonalConvolution(weight=weight)})
        experiment.step = 1
        training_step(experiment, *draw_batch(experiment))
        return [parameter.grad for parameter in experiment.network.parameters()]

    gradients = [compute_gradient(w) for w in (Schedule(start=0.5, end=0.0, schedule="linear"), 0.375, 0.5)]
    assert all(map(torch.equal, gradients[0], gradients[1]))
    assert not all(map(torch.equal, gradients[0], gradients[2]))


def test_lazy_penalty_counts_for_skipped_steps(build):
    def compute_gradient(step: int, **penalties):
        experiment = build(regularizers=penalties)
        experiment.network.train()
        experiment.step = step
        training_step(experiment, *draw_batch(experiment))
        return experiment.network.network.layer2[0].conv1.weight.grad

    penalty = OrthogonalConvolution(weight=0.01, every=2)
    network = build().network
    penalty.weight_penalty(network, torch.Generator()).backward()
    expected = 0.02 * network.network.layer2[0].conv1.weight.grad
    difference = compute_gradient(0, ocnn=penalty) - compute_gradient(0)
    torch.testing.assert_close(difference, expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(compute_gradient(1, ocnn=penalty), compute_gradient(1))


def test_step_is_a_function_of_seed_and_step(build):
    experiments = [build(seed=seed, train=replace(FREE, augment=("translation", "cutout"))) for seed in (0, 0, 1)]
    for k, experiment in enumerate(experiments):
        experiment.network.train()
        experiment.step = 4
        torch.manual_seed(k)
        training_step(experiment, *draw_batch(experiment))
    weights = [experiment.network.network.fc.weight for experiment in experiments]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
