"""One training step of a classifier."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from classification.config import SGDConfig
from classification.experiment import Experiment
from gan.objectives.augment import augment
from gan.options.schedules import get_value
from gan.runtime import rng
from gan.runtime.precision import autocast, training_precision


def draw_batch(experiment: Experiment) -> tuple[Tensor, Tensor]:
    """Return augmented images (B, C, H, W) in [0, 1] and labels (B,) of this step.

    In free adversarial training consecutive steps use the same batch.
    """
    config = experiment.config.train
    position = experiment.step // max(1, config.free.replays) * config.batch_size
    x, y = experiment.sampler.batch(position, config.batch_size)
    random = rng.generator(experiment.device, experiment.config.seed, "augmentation", position)
    x = augment((x + 1) / 2, config.augment, random)  # in [0, 1], where the padding of zeros is black
    if config.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    return x, y


def training_step(experiment: Experiment, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Update the classifier once and return its loss without penalties, and its accuracy (%), as scalars on the device.

    x (B, C, H, W) are images in [0, 1] with labels y (B,). In free adversarial training the same backward pass also
    updates the perturbation (Shafahi et al., NeurIPS 2019).
    """
    with training_precision(experiment.config.train.precision):
        return _update(experiment, x, y)


def _update(experiment: Experiment, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    config, free = experiment.config, experiment.config.train.free
    lr = config.optimizer.lr * learning_rate_factor(config.optimizer, experiment.step, config.train.steps)
    for group in experiment.optimizer.param_groups:
        group["lr"] = lr
    if free.replays:
        if free.reset and experiment.step % free.replays == 0:
            experiment.delta = torch.zeros_like(experiment.delta)
        experiment.delta.requires_grad_(True)
        x = (x + experiment.delta).clamp(0, 1)

    experiment.optimizer.zero_grad()
    with autocast(experiment.device, config.train.precision):
        logits = experiment.network(x).float()
    loss = F.cross_entropy(logits, y)
    total = loss
    random = rng.generator(experiment.device, config.seed, "penalty", experiment.step)
    for regularizer in experiment.regularizers.values():
        if regularizer.is_due(experiment.step):
            # A lazy penalty also counts for the steps in which it is skipped.
            total_images = config.train.steps * config.train.images_per_step
            factor = get_value(regularizer.weight, experiment.images, total_images) * regularizer.every
            total = total + factor * regularizer.weight_penalty(experiment.network, random)
    total.backward()
    experiment.optimizer.step()

    if experiment.delta.grad is not None:  # in free adversarial training
        moved = experiment.delta.detach() + free.step / 255 * experiment.delta.grad.sign()
        experiment.delta = moved.clamp(-free.eps / 255, free.eps / 255)
    experiment.step += 1
    correct = (logits.detach().argmax(dim=1) == y).float().mean()
    return {"loss/train": loss.detach(), "accuracy/train": 100 * correct}


def learning_rate_factor(options: SGDConfig, step: int, steps: int) -> float:
    """Return the factor of the learning rate at a step of `steps`."""
    match options.schedule:
        case "step":
            return options.gamma ** sum(milestone <= step for milestone in options.milestones)
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * step / steps))
    raise ValueError(f"unknown schedule '{options.schedule}'")
