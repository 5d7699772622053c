"""One training step of a GAN: `n_critic` updates of D, one update of G, and the weight average."""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gan.config import TrainConfig
from gan.objectives.augment import augment
from gan.objectives.regularizers import Batch
from gan.runtime.distributed import average_gradients
from gan.training.experiment import Experiment
from gan.training.inputs import Inputs, concatenate_labels


def training_step(experiment: Experiment, G: nn.Module, D: nn.Module) -> dict[str, Tensor]:
    """Run one step and return its losses and mean logits by tag, as scalars on the device.

    `G` and `D` are the networks of the experiment, or their compiled forms. Everything random is a function of the
    seed and the step.
    """
    config = experiment.config
    factor = learning_rate_factor(config.optimizer.schedule, experiment.step / config.train.steps)
    set_learning_rate(experiment.optimizer_G, config.optimizer.generator.lr * factor)
    set_learning_rate(experiment.optimizer_D, config.optimizer.discriminator.lr * factor)

    losses: dict[str, Tensor] = {}
    if config.train.first == "generator":
        losses |= update_generator(experiment, G, D)
    for k in range(config.train.n_critic):
        losses |= update_discriminator(experiment, G, D, experiment.d_steps + k)
    if config.train.first == "discriminator":
        losses |= update_generator(experiment, G, D)

    experiment.ema.update(experiment.G, config.train.fakes_per_update)
    experiment.step += 1
    return losses


def update_discriminator(experiment: Experiment, G: nn.Module, D: nn.Module, d_step: int) -> dict[str, Tensor]:
    """Update D once; return its loss without penalties, and its mean logits."""
    config, inputs = experiment.config, experiment.inputs
    batch = draw_batch(inputs, G, config.train, d_step)
    random = inputs.generator("penalty", d_step)
    experiment.optimizer_D.zero_grad()
    with autocast(experiment.device, config.train):
        logits_real, logits_fake = discriminate(D, batch)
        loss = config.loss.discriminator(logits_real.float(), logits_fake.float())
        total = loss
        for regularizer in config.regularizers.values():
            if regularizer.is_due(d_step):
                # A lazy penalty also counts for the steps in which it is skipped. Penalties use the uncompiled D,
                # because compiled graphs have no double backward.
                factor = regularizer.weight * regularizer.every
                total = total + factor * regularizer.penalty(experiment.D, batch, random)
    total.backward()
    average_gradients(experiment.D)
    experiment.optimizer_D.step()
    return {
        "loss/D": loss.detach(),
        "logits/real": logits_real.detach().float().mean(),
        "logits/fake": logits_fake.detach().float().mean(),
    }


def update_generator(experiment: Experiment, G: nn.Module, D: nn.Module) -> dict[str, Tensor]:
    """Update G once, while the parameters of D are frozen; return its loss."""
    config, inputs, step = experiment.config, experiment.inputs, experiment.step
    size = config.train.fakes_per_update
    random = inputs.generator("augmentation", "G", step)
    experiment.optimizer_G.zero_grad()
    experiment.D.requires_grad_(False)
    with autocast(experiment.device, config.train):
        z, y = inputs.training_latents(size, "G", step)
        logits_fake = D(augment(G(z, y).float(), config.train.augment, random), y).float()
        logits_real = None
        if config.loss.generator_sees_real:
            x_real, y_real = inputs.real_images(experiment.images, size)
            with torch.no_grad():
                logits_real = D(augment(x_real, config.train.augment, random), y_real).float()
        loss = config.loss.generator(logits_fake, logits_real)
    loss.backward()
    average_gradients(experiment.G)
    experiment.D.requires_grad_(True)
    experiment.optimizer_G.step()
    return {"loss/G": loss.detach()}


def draw_batch(inputs: Inputs, G: nn.Module, train: TrainConfig, d_step: int) -> Batch:
    """Return the real and generated images of a D update, augmented in the same way; G gets no gradient."""
    x_real, y_real = inputs.real_images(d_step * train.batch_size, train.batch_size)
    with autocast(inputs.device, train), torch.no_grad():
        z, y_fake = inputs.training_latents(train.batch_size, "D", d_step)
        x_fake = G(z, y_fake)
    random = inputs.generator("augmentation", "D", d_step)
    x_real = augment(x_real, train.augment, random)
    return Batch(x_real, y_real, augment(x_fake.to(x_real.dtype), train.augment, random), y_fake)


def discriminate(D: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the logits (B,) of real and generated images.

    One forward pass serves both, unless D has batch norm, whose statistics would mix the two.
    """
    if any(isinstance(module, _BatchNorm) for module in D.modules()):
        return D(batch.x_real, batch.y_real), D(batch.x_fake, batch.y_fake)
    logits = D(torch.cat([batch.x_real, batch.x_fake]), concatenate_labels(batch.y_real, batch.y_fake))
    return logits[: len(batch.x_real)], logits[len(batch.x_real) :]


def learning_rate_factor(schedule: str, progress: float) -> float:
    """Return the factor of the learning rate when a fraction `progress` of the steps is done."""
    match schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1 - progress
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
    raise ValueError(f"unknown schedule '{schedule}'")


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def autocast(device: torch.device, train: TrainConfig) -> torch.autocast:
    """Return the context of forward passes: bfloat16 autocast if the config enables it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=train.amp == "bf16")
