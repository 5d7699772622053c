"""The training loop of a classifier: update, log, validate, checkpoint; test after the last step.

Everything random in a step is a function of (seed, step), and the perturbation of free adversarial training is part of
a checkpoint, so going on from one changes nothing.
"""

import math
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from classification.evaluate import accuracies, accuracy
from classification.experiment import Experiment, training_batch
from classification.lipschitz import lipschitz_audit, lipschitz_numbers
from gan.run.checkpoint import Checkpoints
from gan.run.divergence import check_finite, gradient_norm
from gan.run.logging import RunLogger
from gan.run.progress import Progress
from gan.runtime import rng
from gan.runtime.interrupt import Interrupt, Interrupted

SHOWN = {  # on the progress line
    "loss/train": "loss",
    "accuracy/train": "accuracy",
    "speed/images_per_s": "images_per_s",
    "metrics/accuracy_validation": "accuracy_validation",
}


def train(
    run: Experiment, checkpoints: Checkpoints, logger: RunLogger, progress: Progress, interrupt: Interrupt
) -> None:
    """Train up to `train.steps` updates; numbers and checkpoints go to the run folder on the way.

    A signal ends the run after a step, with a checkpoint: Interrupted. Diverged when a number or weight is not finite
    any more, before anything of that is saved.
    """
    config = run.config
    steps, replays = config.train.steps, max(1, config.train.free.replays)
    run.network.train()
    batch = None
    timed_from, clock = run.step, time.perf_counter()

    while run.step < steps:
        set_learning_rate(run)
        if batch is None or run.step % replays == 0:
            batch = training_batch(run)
        losses = update(run, *batch)
        run.step += 1
        progress.step()

        def due(every: int) -> bool:
            return run.step % every == 0 or run.step == steps

        if any(map(due, (config.log.every, config.eval.every, config.checkpoint.every))):
            check_finite(run, losses)
        numbers: dict[str, float] = {}
        if due(config.log.every):
            numbers |= {tag: value.item() for tag, value in losses.items()}  # waits for the device
            numbers["gradient_norm/classifier"] = gradient_norm(run.network)
            images = (run.step - timed_from) * config.train.batch_size
            numbers["speed/images_per_s"] = images / (time.perf_counter() - clock)
        if due(config.lipschitz.every):
            numbers |= lipschitz_numbers(run)
        if due(config.lipschitz.audit_every):
            audited, spectra = lipschitz_audit(run)
            numbers |= audited
            logger.histograms(run.step, spectra)
        if due(config.eval.every):
            numbers |= validate(run, checkpoints)
        if run.step == steps:
            numbers |= accuracies(run.network, run.sets.test, config.eval, config.seed, run.device)
        if numbers:
            logger.scalars(run.step, None, run.images, numbers)
            progress.show(run.step, {name: numbers[tag] for tag, name in SHOWN.items() if tag in numbers})
            timed_from, clock = run.step, time.perf_counter()  # measuring and writing are not training
        number = interrupt.requested
        if number is not None:
            check_finite(run, losses)
        if due(config.checkpoint.every) or number is not None:
            checkpoints.save(run.state_dict())
        if number is not None:
            raise Interrupted(number, f"interrupted at step {run.step}, with a checkpoint; --resume goes on from here")


def update(run: Experiment, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Update the classifier on images (B, C, H, W) in [0, 1] with labels (B,); return its loss without penalties and
    its accuracy (%) there, still on the device.

    In free adversarial training the same backward pass also moves the perturbation (Shafahi et al., algorithm 1).
    """
    config = run.config
    free = config.train.free
    if free.replays:
        run.delta.requires_grad_(True)
        x = (x + run.delta).clamp(0, 1)
    run.optimizer.zero_grad()
    with torch.autocast(run.device.type, torch.bfloat16, enabled=config.train.amp == "bf16"):
        logits = run.network(x).float()
    loss = F.cross_entropy(logits, y)
    total = loss
    random = rng.generator(run.device, config.seed, "penalty", run.step)
    for regularizer in run.regularizers.values():
        if regularizer.due(run.step):
            # Lazy penalties count for the steps between.
            total = total + regularizer.weight * regularizer.every * regularizer.weight_penalty(run.network, random)
    total.backward()
    run.optimizer.step()
    if run.delta.grad is not None:  # in free adversarial training
        moved = run.delta.detach() + free.step / 255 * run.delta.grad.sign()
        run.delta = moved.clamp(-free.eps / 255, free.eps / 255)
    right = (logits.detach().argmax(dim=1) == y).float().mean()
    return {"loss/train": loss.detach(), "accuracy/train": 100 * right}


def set_learning_rate(run: Experiment) -> None:
    """Set the learning rate to its value at this step."""
    options = run.config.optimizer
    match options.schedule:
        case "step":
            factor = options.gamma ** sum(milestone <= run.step for milestone in options.milestones)
        case "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * run.step / run.config.train.steps))
    for group in run.optimizer.param_groups:
        group["lr"] = options.lr * factor


def validate(run: Experiment, checkpoints: Checkpoints) -> dict[str, float]:
    """Return the accuracy on validation images, if there are any; keep the checkpoint when it is the best so far."""
    rows = run.sets.validation_rows
    if len(rows) == 0:
        return {}
    value = accuracy(run.network, run.sets.train, run.config.eval.batch_size, run.device, rows)
    if run.best is None or value > run.best:
        run.best = value
        checkpoints.save_best(run.state_dict())
    return {"metrics/accuracy_validation": value}
