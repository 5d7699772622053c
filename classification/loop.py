"""The training loop of a classifier: step, log, save, evaluate.

Everything random in a step is a function of the seed and the step, and the perturbation of free adversarial training is
saved in checkpoints, so that a resumed run equals an uninterrupted one.
"""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from classification.evaluate import accuracy, measure_accuracies
from classification.experiment import Experiment
from classification.lipschitz import lipschitz_audit, lipschitz_numbers
from classification.step import draw_batch, training_step
from classification.summary import attack_tags
from gan.evaluation.lipschitz import measure_due
from gan.run.divergence import find_nonfinite, gradient_norm, stop_diverged
from gan.run.recorder import Recorder, Throughput, is_due, open_recorder
from gan.runtime.distributed import mean_numbers
from gan.runtime.interrupt import Interrupt, stop_interrupted

SHOWN = {  # on the progress line
    "loss/train": "loss",
    "accuracy/train": "accuracy",
    "speed/images_per_s": "images_per_s",
    "metrics/accuracy_validation": "accuracy_validation",
}
VALIDATION = "metrics/accuracy_validation"


def train(experiment: Experiment, folder: Path, interrupt: Interrupt) -> None:
    """Train until step `train.steps`; write log and checkpoints to the run folder.

    Raises Interrupted after a signal, with a checkpoint of the current step. Raises Diverged when a loss or weight is
    NaN or infinite, before the step is logged or saved.
    """
    config = experiment.config
    experiment.network.train()
    batch = None

    def due(every: int) -> bool:
        return is_due(every, experiment.step, config.train.steps)

    with open_recorder(folder, config, experiment.step, "classifier", SHOWN) as recorder:
        assert recorder is not None  # a classifier is trained in a single process
        if experiment.step > 0 and due(config.eval.every) and lacks_evaluation(experiment, recorder):
            evaluate(experiment, recorder)  # the run stopped after saving, before this evaluation
        throughput = Throughput(experiment.images)

        while experiment.step < config.train.steps:
            if batch is None or experiment.step % max(1, config.train.free.replays) == 0:
                batch = draw_batch(experiment)
            losses = training_step(experiment, *batch)
            recorder.progress.step()

            logs = due(config.log.every) or due(config.lipschitz.every) or due(config.lipschitz.audit_every)
            saves, evaluates = due(config.checkpoint.every), due(config.eval.every)
            signal_number = interrupt.get_signal()  # an evaluation is short, and is not interrupted
            if logs or saves or evaluates or signal_number is not None:
                nonfinite = find_nonfinite(experiment.networks, losses)
                if nonfinite:
                    stop_diverged(folder, experiment.step, nonfinite)

            numbers, spectra = measure(experiment, losses, throughput, due)
            if logs:
                recorder.log(experiment.counters, numbers)
                recorder.logger.histograms(experiment.step, spectra)

            if saves or signal_number is not None:
                recorder.save(experiment.state_dict())
            if signal_number is not None:
                stop_interrupted(signal_number, experiment.step)
            if evaluates:
                evaluate(experiment, recorder)

            if logs or saves or evaluates:
                throughput.restart(experiment.images)  # measuring and writing do not count as training


def measure(
    experiment: Experiment, losses: dict[str, Tensor], throughput: Throughput, due: Callable[[int], bool]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the numbers that are due after this step, and the singular values of the layers, both by tag."""
    config = experiment.config
    numbers: dict[str, float] = {}
    if due(config.log.every):
        numbers |= mean_numbers(losses)
        numbers["gradient_norm/classifier"] = gradient_norm(experiment.network)
        numbers["speed/images_per_s"] = throughput.images_per_second(experiment.images)
    estimates, spectra = measure_due(
        config.lipschitz, due, lambda: lipschitz_numbers(experiment), lambda: lipschitz_audit(experiment)
    )
    return numbers | estimates, spectra


def evaluate(experiment: Experiment, recorder: Recorder) -> None:
    """Log the accuracy on validation images, and after the last step all accuracies on test images.

    Keeps the checkpoint if its validation accuracy is the best so far.
    """
    config, sets = experiment.config, experiment.sets
    numbers: dict[str, float] = {}
    if len(sets.validation_rows) > 0:
        value = accuracy(
            experiment.network, sets.train, config.eval.batch_size, experiment.device, sets.validation_rows
        )
        if recorder.is_best(VALIDATION, value, higher_is_better=True):
            recorder.save_best(experiment.state_dict())
        numbers[VALIDATION] = value
    if experiment.step == config.train.steps:
        numbers |= measure_accuracies(experiment.network, sets.test, config.eval, config.seed, experiment.device)
    if numbers:
        recorder.log(experiment.counters, numbers)


def lacks_evaluation(experiment: Experiment, recorder: Recorder) -> bool:
    """Return whether an accuracy of the current step is missing in the log."""
    options = experiment.config.eval
    tags = [VALIDATION] if len(experiment.sets.validation_rows) > 0 else []
    if experiment.step == experiment.config.train.steps:
        tags += ["metrics/accuracy_test", *attack_tags(options.attack)]
        tags += [f"metrics/accuracy_{name}" for name in options.corruptions]
    return not all(recorder.has_logged(experiment.step, tag) for tag in tags)
