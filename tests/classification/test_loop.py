from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from classification.config import FreeConfig, SGDConfig, TrainConfig
from classification.step import draw_batch, training_step
from gan.objectives.regularizers.weight import OrthogonalConvolution

FREE = TrainConfig(steps=6, batch_size=16, free=FreeConfig(replays=3, eps=8, step=5))


def rates(build, steps: int, **options) -> list[float]:
    run = build(optimizer=SGDConfig(lr=0.5, **options), train=TrainConfig(steps=steps, batch_size=16))
    rates = []
    for _ in range(steps):
        training_step(run, *draw_batch(run))
        rates.append(run.optimizer.param_groups[0]["lr"])
    return rates


def test_the_step_schedule_is_torchs(build):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5], gamma=0.1)
    expected = []
    for _ in range(8):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert rates(build, 8, schedule="step", milestones=(2, 5)) == pytest.approx(expected)
    assert rates(build, 3, schedule="step") == [0.5, 0.5, 0.5]


def test_the_cosine_falls_from_the_rate_to_zero(build):
    assert rates(build, 4, schedule="cosine") == pytest.approx([0.5, 0.5 * 0.853553, 0.25, 0.5 * 0.146447], rel=1e-5)


def test_a_batch_is_replayed_and_then_the_next_one_comes(build):
    run = build(train=FREE)
    positions = []
    for run.step in range(7):
        positions.append(draw_batch(run)[0])
    for step, other in ((0, 1), (0, 2), (3, 5)):
        assert torch.equal(positions[step], positions[other])
    for step, other in ((2, 3), (5, 6)):
        assert not torch.equal(positions[step], positions[other])


def test_images_of_a_batch_are_the_datasets_in_0_to_1(build):
    run = build()
    x, _ = draw_batch(run)
    allowed = {tuple(image.flatten().tolist()) for image in run.sets.train.images[run.sets.rows]}
    assert {tuple((255 * image).round().to(torch.uint8).flatten().tolist()) for image in x} <= allowed
    assert x.min() == 0
    assert x.max() == 1


def test_what_comes_in_by_a_shift_is_black(build):
    run = build(train=TrainConfig(batch_size=16, augment=("translation",)))
    run.sampler.images = torch.full_like(run.sampler.images, 200)
    x, _ = draw_batch(run)
    torch.testing.assert_close(x.unique(), torch.tensor([0, 200 / 255]))


def test_free_adversarial_training_is_algorithm_1(build):
    """Shafahi et al.: the gradients of weights and perturbation are those of one pass, at the weights before it."""
    run, reference = (
        build(train=FREE, optimizer=SGDConfig(lr=0.1, momentum=0.0, weight_decay=0.0, schedule="step"))
        for _ in range(2)
    )
    run.network.train()
    reference.network.train()
    delta = torch.zeros_like(run.delta)
    parameters = list(reference.network.parameters())
    for step in range(6):
        run.step = reference.step = step
        x, y = draw_batch(run)
        training_step(run, x, y)
        noise = delta.clone().requires_grad_(True)
        loss = F.cross_entropy(reference.network((x + noise).clamp(0, 1)), y)
        *gradients, of_noise = torch.autograd.grad(loss, [*parameters, noise])
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.1 * gradient
        delta = (delta + 5 / 255 * of_noise.sign()).clamp(-8 / 255, 8 / 255)
        torch.testing.assert_close(run.delta, delta, rtol=0, atol=1e-7)
    assert delta.abs().max().item() == pytest.approx(8 / 255)
    for ours, theirs in zip(run.network.parameters(), parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_standard_training_leaves_images_and_perturbation_alone(build):
    run = build()
    run.network.train()
    training_step(run, *draw_batch(run))
    assert not run.delta.any()


def test_a_penalty_is_added_with_its_weight_and_the_steps_it_stands_for(build):
    def gradient(step: int, **penalties):
        run = build(regularizers=penalties)
        run.network.train()
        run.step = step
        training_step(run, *draw_batch(run))
        return run.network.network.layer2[0].conv1.weight.grad, run

    plain, run = gradient(0)
    conv = run.network.network.layer2[0].conv1
    penalty = OrthogonalConvolution(weight=0.01, every=2)
    added, _ = gradient(0, ocnn=penalty)
    fresh = build().network
    penalty.weight_penalty(fresh, torch.Generator()).backward()
    expected = 0.02 * fresh.network.layer2[0].conv1.weight.grad
    torch.testing.assert_close(added - plain, expected, rtol=1e-3, atol=1e-5)
    assert conv.weight.grad is plain
    skipped, _ = gradient(1, ocnn=penalty)
    assert torch.equal(skipped, gradient(1)[0])


def test_an_update_is_a_function_of_seed_and_step(build):
    runs = [build(seed=seed, train=replace(FREE, augment=("translation", "cutout"))) for seed in (0, 0, 1)]
    for run in runs:
        run.network.train()
        run.step = 4
        torch.manual_seed(len(runs))
        training_step(run, *draw_batch(run))
    weights = [run.network.network.fc.weight for run in runs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
