"""What a training loop writes: log, progress line, checkpoints. GANs and classifiers share it."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gan.run.checkpoint import Checkpoints
from gan.run.logging import METRIC, RunLogger, read_metrics
from gan.run.progress import Progress
from gan.run.step_files import REAL, SAMPLES
from gan.runtime.distributed import rank


class Recorder:
    """Writes the log and the checkpoints of a run into its folder, and shows progress in the terminal.

    Only rank 0 has one; see `open_recorder`. Log entries after `step` are dropped, so that a resumed run logs no step
    twice.

    Args:
        folder: run folder.
        config: config of the run; the sections `train`, `log` and `checkpoint` are read.
        step: step from which training continues.
        network: name of the network whose Lipschitz constant is logged, as in the tags.
        shown: tags to show on the progress line, with their labels.
    """

    def __init__(self, folder: Path, config: Any, step: int, network: str, shown: Mapping[str, str]):
        self.checkpoints = Checkpoints(folder, config)
        self._folder, self._config, self._network, self._shown = folder, config, network, shown
        self._open(step)

    def _open(self, step: int) -> None:
        self.logger = RunLogger(self._folder, step, self._network, self._config.log.to)
        self.progress = Progress(step, self._config.train.steps)

    def close(self, is_complete: bool) -> None:
        """Close the log and the progress line. `is_complete` is whether the run has reached its last step."""
        self.progress.close()
        self.logger.close(is_complete)

    def rewind(self, step: int) -> None:
        """Drop the log entries after `step` and count progress from there."""
        self.close(is_complete=False)
        self._open(step)

    def log(self, counters: Mapping[str, int], numbers: Mapping[str, float]) -> None:
        """Log numbers by tag and update the progress line; `counters` are logged with them and include `step`."""
        self.logger.scalars(counters, numbers)
        shown = {label: numbers[tag] for tag, label in self._shown.items() if tag in numbers}
        metrics = {tag.removeprefix(METRIC): value for tag, value in numbers.items() if tag.startswith(METRIC)}
        self.progress.show(counters["step"], shown, metrics)

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint of a step, after the log: a resumed run does not log earlier steps again."""
        self.logger.sync()
        self.checkpoints.save(state)

    def save_best(self, state: dict[str, Any]) -> None:
        """Write the state as the best one so far."""
        self.checkpoints.save_best(state)

    def warn(self, message: str | None) -> None:
        """Print a warning without interrupting the progress line; None prints nothing."""
        if message is not None:
            self.progress.warn(message)

    def has_logged(self, step: int, tag: str) -> bool:
        """Return whether the log has a number under `tag` for `step`."""
        return any(line["step"] == step and tag in line for line in read_metrics(self._folder))

    def has_real_images(self) -> bool:
        """Return whether a grid of real images has been logged."""
        return (self._folder / SAMPLES / REAL).exists()

    def has_image(self, tag: str, step: int) -> bool:
        """Return whether an image has been logged under `tag` for `step`."""
        return self.logger.get_image_path(tag, step).exists()

    def is_best(self, tag: str, value: float, higher_is_better: bool) -> bool:
        """Return whether `value` is better than every value logged under `tag`."""
        sign = 1 if higher_is_better else -1
        logged = [sign * line[tag] for line in read_metrics(self._folder) if line.get(tag) is not None]
        return sign * value > max(logged, default=-math.inf)


@contextmanager
def open_recorder(
    folder: Path, config: Any, step: int, network: str, shown: Mapping[str, str]
) -> Iterator[Recorder | None]:
    """Yield the recorder of a run, or None on ranks other than 0; the arguments are those of `Recorder`."""
    if rank() != 0:
        yield None
        return
    recorder = Recorder(folder, config, step, network, shown)
    is_complete = False
    try:
        yield recorder
        is_complete = True
    finally:
        recorder.close(is_complete)


def is_due(every: int, step: int, last_step: int) -> bool:
    """Return whether an action that runs every `every` steps runs after `step`; all actions run after the last step."""
    return step % every == 0 or step == last_step


class Throughput:
    """Images trained per second since the last restart."""

    def __init__(self, images: int):
        self.restart(images)

    def restart(self, images: int) -> None:
        """Start again when `images` images have been trained on."""
        self._images, self._time = images, time.perf_counter()

    def images_per_second(self, images: int) -> float:
        """Return the throughput when `images` images have been trained on."""
        return (images - self._images) / (time.perf_counter() - self._time)
