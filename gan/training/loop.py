"""The training loop of a GAN: step, log, save, evaluate."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from gan.data import to_uint8
from gan.data.grids import sample_grid
from gan.evaluation.lipschitz import measure_due
from gan.run.divergence import find_nonfinite, gradient_norm
from gan.run.logging import METRIC
from gan.run.recorder import Recorder, Throughput, is_due, open_recorder
from gan.run.step_files import SAMPLES
from gan.runtime.distributed import call_on_rank_zero, mean_numbers, world_size
from gan.runtime.interrupt import Interrupt, Interrupted, stop_interrupted
from gan.training.experiment import Experiment
from gan.training.inputs import Inputs
from gan.training.lipschitz import lipschitz_audit, lipschitz_numbers
from gan.training.rollback import roll_back
from gan.training.step import training_step
from gan.training.warnings import TrainingWarnings
from metrics.estimate import Estimate
from models.calls import call_network

NUM_SAMPLES = 64  # images in a sample grid
SHOWN = {"loss/D": "D", "loss/G": "G", "speed/images_per_s": "images_per_s"}  # on the progress line


def train(experiment: Experiment, folder: Path, interrupt: Interrupt) -> None:
    """Train until step `train.steps`; write log, checkpoints and samples to the run folder.

    Raises Interrupted after a signal, with a checkpoint of the current step. Raises Diverged when a loss or weight is
    NaN or infinite, before the step is logged or saved. With `train.on_nan=rollback`, training then continues from the
    newest checkpoint instead, at most three times.
    """
    config = experiment.config
    experiment.G.train()
    experiment.D.train()
    G, D = compile_networks(experiment)
    warnings = TrainingWarnings(config.loss, experiment.inputs.sampler.images)

    def due(every: int) -> bool:
        return is_due(every, experiment.step, config.train.steps)

    first_metric = get_first_metric(experiment)
    shown = SHOWN if first_metric is None else SHOWN | {first_metric: first_metric.removeprefix(METRIC)}
    with open_recorder(folder, config, experiment.step, "D", shown) as recorder:
        if experiment.step == 0 and config.train.on_nan == "rollback":
            save(experiment, recorder)  # the first state to roll back to
        if experiment.step > 0 and due(config.eval.every) and lacks_evaluation(experiment, recorder):
            evaluate(experiment, recorder, interrupt, warnings)  # the run stopped after saving, before this evaluation
        if recorder is not None:
            draw_missing_images(experiment, recorder)
        throughput = Throughput(experiment.images)

        while experiment.step < config.train.steps:
            losses = training_step(experiment, G, D)
            if recorder is not None:
                recorder.progress.step()

            logs = due(config.log.every) or due(config.lipschitz.every) or due(config.lipschitz.audit_every)
            saves, evaluates = due(config.checkpoint.every), due(config.eval.every)
            acts = logs or saves or evaluates
            if acts:
                experiment.average_batch_statistics()
                if has_diverged(experiment, folder, recorder, losses):
                    throughput.restart(experiment.images)
                    continue

            numbers, spectra = measure(experiment, losses, throughput, due)
            if recorder is not None and logs:
                recorder.log(experiment.counters, numbers)
                recorder.logger.histograms(experiment.step, spectra)
                if "loss/D" in numbers:
                    recorder.warn(warnings.check_loss(experiment.step, numbers["loss/D"]))

            if saves:
                save(experiment, recorder)
            if evaluates:
                with suppress(Interrupted):  # a resumed run does the evaluation again
                    evaluate(experiment, recorder, interrupt, warnings)

            # Read after the evaluation, which a signal stops early. Several processes must agree on it: not each step.
            if (acts or world_size() == 1) and (signal_number := interrupt.get_signal()) is not None:
                if has_diverged(experiment, folder, recorder, losses):
                    throughput.restart(experiment.images)
                    continue
                if not saves:
                    save(experiment, recorder)
                stop_interrupted(signal_number, experiment.step)

            draws = is_early(experiment.step, config.eval.every) and not evaluates
            if draws and recorder is not None:
                draw_samples(experiment, experiment.evaluated_generator(), recorder)
            if acts or draws:
                throughput.restart(experiment.images)  # measuring and writing do not count as training


def compile_networks(experiment: Experiment) -> tuple[nn.Module, nn.Module]:
    """Return G and D, compiled if the config says so."""
    if not experiment.config.train.compile:
        return experiment.G, experiment.D
    # Fixed shapes: a run has only a few batch sizes, and a graph for each is faster than one for dynamic shapes.
    compiled = (torch.compile(experiment.G, dynamic=False), torch.compile(experiment.D, dynamic=False))
    return cast(tuple[nn.Module, nn.Module], compiled)  # the type annotations of torch.compile lose the modules


def measure(
    experiment: Experiment, losses: dict[str, Tensor], throughput: Throughput, due: Callable[[int], bool]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the numbers that are due after this step, and the singular values of each layer of D, both by tag."""
    config = experiment.config
    numbers: dict[str, float] = {}
    if due(config.log.every):
        numbers |= mean_numbers(losses)
        numbers["gradient_norm/D"] = gradient_norm(experiment.D)
        numbers["gradient_norm/G"] = gradient_norm(experiment.G)
        numbers["speed/images_per_s"] = throughput.images_per_second(experiment.images)
    estimates, spectra = measure_due(
        config.lipschitz, due, lambda: lipschitz_numbers(experiment), lambda: lipschitz_audit(experiment)
    )
    return numbers | estimates, spectra


def evaluate(
    experiment: Experiment, recorder: Recorder | None, interrupt: Interrupt, warnings: TrainingWarnings
) -> None:
    """Log the metrics of the averaged generator and a sample grid; keep the checkpoint if it is the best so far.

    Raises Interrupted if a signal arrives before the last batch is generated. Nothing is logged then.
    """
    inputs, evaluator = experiment.inputs, experiment.evaluator
    G_ema = experiment.evaluated_generator(interrupt.check)

    def generate(z: Tensor, y: Tensor | None) -> Tensor:
        interrupt.check()
        return call_network(G_ema, z, y)

    scores: dict[str, float] = {}
    if evaluator is not None:
        scores = evaluator(generate, lambda count, k: inputs.latents(count, "evaluation", k))
    if recorder is None:
        return
    metrics = {f"{METRIC}{name}": value for name, value in scores.items()}
    spreads = {f"metrics_std/{name}": value.std for name, value in scores.items() if isinstance(value, Estimate)}
    if evaluator is not None:
        first, value = next(iter(metrics.items()))
        if recorder.is_best(first, value, evaluator.protocols[0].spec.higher_is_better):
            recorder.save_best(experiment.state_dict())
    samples = draw_samples(experiment, G_ema, recorder)
    if metrics:
        recorder.log(experiment.counters, metrics | spreads)
    recorder.warn(warnings.check_samples(experiment.step, samples, experiment.images))


def is_early(step: int, every: int) -> bool:
    """Return whether a sample grid is drawn after `step` without an evaluation, which comes every `every` steps.

    These are step 0 and the powers of two before the first evaluation: at first, images change in few steps.
    """
    return step < every and step & (step - 1) == 0


def draw_samples(experiment: Experiment, G: nn.Module, recorder: Recorder) -> Tensor:
    """Log a grid of samples of G, and return them. This changes no state and no random number of training."""
    samples = fixed_samples(G, experiment.inputs)
    recorder.logger.image(SAMPLES, experiment.step, sample_grid(samples, experiment.config.data.stacked))
    return samples


def draw_missing_images(experiment: Experiment, recorder: Recorder) -> None:
    """Log a grid of real images, unless the run has it, and a sample grid if it is due at this step and missing."""
    if not recorder.has_real_images():
        images = experiment.inputs.sampler.images
        index = torch.linspace(0, len(images) - 1, min(NUM_SAMPLES, len(images))).long()  # folders are sorted by class
        grid = sample_grid(images[index.to(images.device)].cpu(), experiment.config.data.stacked)
        recorder.logger.real_images(grid)
    if is_early(experiment.step, experiment.config.eval.every) and not recorder.has_image(SAMPLES, experiment.step):
        draw_samples(experiment, experiment.evaluated_generator(), recorder)


def has_diverged(experiment: Experiment, folder: Path, recorder: Recorder | None, losses: dict[str, Tensor]) -> bool:
    """Return whether a loss or weight is NaN or infinite; the experiment is then rolled back.

    Raises Diverged if the config asks for no rollback, and after three rollbacks.
    """
    nonfinite = find_nonfinite(experiment.networks, losses, experiment.config.train.precision)
    if nonfinite:
        roll_back(experiment, folder, recorder, nonfinite)
    return bool(nonfinite)


def lacks_evaluation(experiment: Experiment, recorder: Recorder | None) -> bool:
    """Return whether the metrics of the current step, or the samples if there are no metrics, are missing."""
    step, tag = experiment.step, get_first_metric(experiment)

    def is_missing() -> bool:
        assert recorder is not None  # called on rank 0
        return not (recorder.has_image(SAMPLES, step) if tag is None else recorder.has_logged(step, tag))

    return call_on_rank_zero(is_missing)


def get_first_metric(experiment: Experiment) -> str | None:
    """Return the tag of the metric that chooses the best checkpoint; None without metrics."""
    return None if experiment.evaluator is None else f"{METRIC}{experiment.evaluator.protocols[0]}"


@torch.no_grad()
def fixed_samples(G_ema: nn.Module, inputs: Inputs) -> Tensor:
    """Return uint8 images (64, C, H, W) of the averaged generator from the same latents at every step."""
    return to_uint8(G_ema(*inputs.latents(NUM_SAMPLES, "samples")))


def save(experiment: Experiment, recorder: Recorder | None) -> None:
    """Write a checkpoint of the current step."""
    if recorder is not None:
        recorder.save(experiment.state_dict())
