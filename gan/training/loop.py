"""The training loop: D steps, G step, average, log, evaluate, checkpoint.

Everything random in a step is a function of (seed, step), so going on from a checkpoint repeats nothing and changes
nothing.
"""

import math
import time
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gan.data import to_uint8
from gan.data.grids import sample_grid
from gan.objectives.augment import augment
from gan.objectives.regularizers import Batch
from gan.run.checkpoint import Checkpoints
from gan.run.divergence import check_finite, gradient_norm
from gan.run.logging import RunLogger
from gan.run.progress import Progress
from gan.runtime import rng
from gan.runtime.distributed import average_batch_statistics, average_gradients, mean_numbers
from gan.runtime.interrupt import Interrupt, Interrupted
from gan.training.experiment import Experiment, generator_batch_size, join_labels, latents, local_latents, real_images
from gan.training.lipschitz import lipschitz_audit, lipschitz_numbers
from gan.training.warnings import Symptoms

NUM_SAMPLES = 64  # images in a sample grid
SHOWN = ("loss/D", "loss/G", "speed/images_per_s")  # on the progress line, beside the first metric


def train(
    run: Experiment, checkpoints: Checkpoints, logger: RunLogger, progress: Progress, interrupt: Interrupt
) -> None:
    """Train up to `train.steps` generator updates; numbers, samples and checkpoints go to the run folder on the way.

    Interrupted when a signal has come, with a checkpoint of the step at which it came; Diverged when a number or weight
    is not finite any more, before anything of that is measured, logged or saved.
    """
    config = run.config
    run.G.train()
    run.D.train()
    G, D = compiled_networks(run)
    speed, symptoms = Speed(run), Symptoms(run)

    while run.step < config.train.steps or run.measured is not None:
        if run.measured is None:  # else a signal has come while this step was evaluated, which is done again
            losses = update(run, G, D)
            progress.step()
            if any(due(run, every) for every in (config.log.every, config.eval.every, config.checkpoint.every)):
                check_finite(run, losses)
            run.measured = measure(run, losses, speed)
        with suppress(Interrupted):
            record(run, run.measured, checkpoints, logger, progress, interrupt, symptoms)
            speed.start(run)  # measuring and writing are not training
        number = interrupt.requested
        if number is not None:
            check_finite(run, {})
        if due(run, config.checkpoint.every) or number is not None:
            checkpoints.save(run.state_dict())
        if number is not None:
            raise Interrupted(number, f"interrupted at step {run.step}, with a checkpoint; --resume goes on from here")


def due(run: Experiment, every: int) -> bool:
    """Tell whether this step is one of those that come `every` so many, or the last."""
    return run.step % every == 0 or run.step == run.config.train.steps


def update(run: Experiment, G: nn.Module, D: nn.Module) -> dict[str, Tensor]:
    """Do one step: the updates of D, that of G, and the average; return their numbers, still on the device."""
    set_learning_rates(run)
    if run.config.train.first == "generator":
        g_numbers = generator_step(run, G, D)
        d_numbers = discriminator_steps(run, G, D)
    else:
        d_numbers = discriminator_steps(run, G, D)
        g_numbers = generator_step(run, G, D)
    average_batch_statistics(run.D)
    average_batch_statistics(run.G)
    run.ema.update(run.G, generator_batch_size(run.config))
    run.step += 1
    return d_numbers | g_numbers


class Speed:
    """Images that D has seen per second since the clock was started."""

    def __init__(self, run: Experiment):
        self.start(run)

    def start(self, run: Experiment) -> None:
        """Start the clock anew."""
        self._images, self._clock = run.images, time.perf_counter()

    def __call__(self, run: Experiment) -> float:
        """Return the speed."""
        return (run.images - self._images) / (time.perf_counter() - self._clock)


def measure(run: Experiment, losses: dict[str, Tensor], speed: Speed) -> dict[str, dict[str, Any]]:
    """Return what is due of this step's numbers, and of the layers' singular values, both by tag."""
    config = run.config
    numbers: dict[str, float] = {}
    spectra: dict[str, Tensor] = {}
    if due(run, config.log.every):
        numbers |= mean_numbers(losses)
        numbers |= {"gradient_norm/D": gradient_norm(run.D), "gradient_norm/G": gradient_norm(run.G)}
        numbers["speed/images_per_s"] = speed(run)
    if due(run, config.lipschitz.every):
        numbers |= lipschitz_numbers(run)
    if due(run, config.lipschitz.audit_every):
        audited, spectra = lipschitz_audit(run)
        numbers |= audited
    return {"numbers": numbers, "spectra": spectra}


def record(
    run: Experiment,
    measured: dict[str, dict[str, Any]],
    checkpoints: Checkpoints,
    logger: RunLogger,
    progress: Progress,
    interrupt: Interrupt,
    symptoms: Symptoms,
) -> None:
    """Evaluate the step if that is due, and log all that was measured of it; Interrupted before anything is logged."""
    numbers = measured["numbers"]
    scores: dict[str, float] = {}
    alarms = [symptoms.check_loss(numbers["loss/D"])] if "loss/D" in numbers else []
    if due(run, run.config.eval.every):
        scores = evaluate(run, interrupt)
        numbers = numbers | {f"metrics/{name}": value for name, value in scores.items()}
        samples = fixed_samples(run)
        alarms.append(symptoms.check_samples(samples))
        logger.image("samples", run.step, sample_grid(samples, run.config.data.stacked))
    logger.histograms(run.step, measured["spectra"])
    if numbers:
        logger.scalars(run.step, run.d_steps, run.images, numbers)
        shown = SHOWN if run.evaluator is None else (*SHOWN, f"metrics/{run.evaluator.protocols[0]}")
        progress.show(run.step, {tag.rpartition("/")[2]: numbers[tag] for tag in shown if tag in numbers})
    for alarm in filter(None, alarms):
        progress.warn(alarm)
    run.measured = None
    if scores:
        keep_best(run, checkpoints, next(iter(scores.values())))


def compiled_networks(run: Experiment) -> tuple[nn.Module, nn.Module]:
    """Return G and D as the steps run them: compiled where the config asks for it."""
    if not run.config.train.compile:
        return run.G, run.D
    # Of fixed shapes: the few batch sizes of a run are each worth a graph of its own.
    compiled = (torch.compile(run.G, dynamic=False), torch.compile(run.D, dynamic=False))
    return cast(tuple[nn.Module, nn.Module], compiled)  # modules as they were, which torch's types lose


def discriminator_steps(run: Experiment, G: nn.Module, D: nn.Module) -> dict[str, Tensor]:
    """Update D `n_critic` times; return the numbers of the last time."""
    numbers: dict[str, Tensor] = {}
    for k in range(run.config.train.n_critic):
        numbers = discriminator_step(run, G, D, run.d_steps + k)
    return numbers


def discriminator_step(run: Experiment, G: nn.Module, D: nn.Module, d_step: int) -> dict[str, Tensor]:
    """Update D once; return its loss without penalties and its mean logits, still on the device."""
    batch = batch_for(run, G, d_step)
    random = rng.generator(run.device, run.seed, "penalty", d_step)
    run.optimizer_D.zero_grad()
    with autocast(run):
        logits_real, logits_fake = discriminate(D, batch)
        loss = run.loss.discriminator(logits_real.float(), logits_fake.float())
        total = loss
        for regularizer in run.regularizers.values():
            if regularizer.due(d_step):
                # Lazy penalties count for the steps between. The uncompiled D: its double backward needs eager mode.
                factor = regularizer.weight * regularizer.every
                total = total + factor * regularizer.penalty(run.D, batch, random)
    total.backward()
    average_gradients(run.D)
    run.optimizer_D.step()
    return {
        "loss/D": loss.detach(),
        "logits/real": logits_real.detach().float().mean(),
        "logits/fake": logits_fake.detach().float().mean(),
    }


def generator_step(run: Experiment, G: nn.Module, D: nn.Module) -> dict[str, Tensor]:
    """Update G once, with D's parameters frozen; return its loss, still on the device."""
    size = generator_batch_size(run.config)
    random = rng.generator(run.device, run.seed, "augmentation", "G", run.step)
    run.optimizer_G.zero_grad()
    run.D.requires_grad_(False)
    with autocast(run):
        z, y = local_latents(run, size, "G", run.step)
        logits_fake = D(augment(G(z, y).float(), run.config.train.augment, random), y).float()
        logits_real = None
        if run.loss.generator_sees_real:
            x_real, y_real = real_images(run, run.images, size)
            with torch.no_grad():
                logits_real = D(augment(x_real, run.config.train.augment, random), y_real).float()
        loss = run.loss.generator(logits_fake, logits_real)
    loss.backward()
    average_gradients(run.G)
    run.D.requires_grad_(True)
    run.optimizer_G.step()
    return {"loss/G": loss.detach()}


def batch_for(run: Experiment, G: nn.Module, d_step: int) -> Batch:
    """Return what D is shown at this D step: real images and fakes without a graph, augmented alike."""
    config = run.config.train
    x_real, y_real = real_images(run, d_step * config.batch_size, config.batch_size)
    with autocast(run), torch.no_grad():
        z, y_fake = local_latents(run, config.batch_size, "D", d_step)
        x_fake = G(z, y_fake)
    random = rng.generator(run.device, run.seed, "augmentation", "D", d_step)
    x_real = augment(x_real, config.augment, random)
    return Batch(x_real, y_real, augment(x_fake.to(x_real.dtype), config.augment, random), y_fake)


def discriminate(D: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the logits of real and fake images, in one pass where no batch statistics would mix the two."""
    if any(isinstance(module, _BatchNorm) for module in D.modules()):
        return D(batch.x_real, batch.y_real), D(batch.x_fake, batch.y_fake)
    logits = D(torch.cat([batch.x_real, batch.x_fake]), join_labels(batch.y_real, batch.y_fake))
    return logits[: len(batch.x_real)], logits[len(batch.x_real) :]


def set_learning_rates(run: Experiment) -> None:
    """Set both learning rates to their value at this step."""
    options = run.config.optimizer
    progress = run.step / run.config.train.steps
    match options.schedule:
        case "constant":
            factor = 1.0
        case "linear":
            factor = 1 - progress
        case "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * progress))
    for optimizer, adam in ((run.optimizer_G, options.generator), (run.optimizer_D, options.discriminator)):
        for group in optimizer.param_groups:
            group["lr"] = adam.lr * factor


def evaluate(run: Experiment, interrupt: Interrupt) -> dict[str, float]:
    """Return the metrics of the averaged generator; Interrupted when a signal comes before its last image."""
    if run.evaluator is None:
        return {}

    def generate(z: Tensor, y: Tensor | None) -> Tensor:
        interrupt.check()
        return run.ema.network(z, y)

    return run.evaluator(generate, lambda count, k: latents(run, count, "evaluation", k))


def keep_best(run: Experiment, checkpoints: Checkpoints, score: float) -> None:
    """Keep the checkpoint when this value of the first metric is the best so far."""
    if run.evaluator is not None and run.evaluator.is_better(score, run.best):
        run.best = score
        checkpoints.save_best(run.state_dict())


@torch.no_grad()
def fixed_samples(run: Experiment) -> Tensor:
    """Return uint8 images (64, C, H, W) of the averaged generator, from the same latents at every step."""
    return to_uint8(run.ema.network(*latents(run, NUM_SAMPLES, "samples")))


def autocast(run: Experiment) -> torch.autocast:
    """Return the context of the forward passes: bfloat16 where the config asks for it."""
    return torch.autocast(run.device.type, torch.bfloat16, enabled=run.config.train.amp == "bf16")
