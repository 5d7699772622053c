"""What the stages of the GPU check share: results, experiments on random images, and timing."""

import gc
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.results import append
from benchmarks.random_images import random_images_experiment
from benchmarks.timing import measure_seconds, ratios
from gan.config import Config
from gan.options.loader import load_config
from gan.runtime.cuda_graphs import WARMUP_CALLS
from gan.training.experiment import Experiment
from gan.training.loop import compile_networks
from gan.training.step import training_step

ROOT = Path(__file__).parents[2]
RESNET, MIMICRY, DCGAN = "cifar10/sngan_resnet", "cifar10/sngan_resnet_mimicry", "cifar10/dcgan"
TINY = ["generator.width=8", "discriminator.width=8", "train.batch_size=4", "train.generator_batch_size=4"]


@dataclass
class Task:
    """The options of a stage, and where its results go.

    `tiny` chooses small sizes, to try a stage on a CPU. The stage is ended at the time `until` of time.monotonic().
    """

    stage: str
    results: Path
    device: torch.device
    tiny: bool
    until: float

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def seconds_left(self) -> float:
        """Seconds until the stage is ended."""
        return self.until - time.monotonic()

    def note(self, what: str, /, **values: Any) -> None:
        """Write a result; a later one with the same name replaces it."""
        append(self.results, self.stage, what, values)

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Make an error inside the context a result, and go on after it."""
        try:
            yield
        except Exception as error:
            self.note_error(what, error)

    def note_error(self, what: str, error: Exception) -> None:
        """Write an error as a result, and its traceback to the log."""
        traceback.print_exception(error)
        self.note(f"{what}: error", error=f"{type(error).__name__}: {str(error)[:300]}")

    def build(self, config: str, *overrides: str, side: int = 32) -> Experiment:
        """Return the experiment of a shipped config, with random images and without metrics."""
        tiny = [*TINY, "train.n_critic=1", "lipschitz.iterations=2"] if self.tiny else []
        path = ROOT / "configs" / f"{config}.yaml"
        settings = load_config(Config, path, ["eval.metrics=[]", *tiny, *overrides])
        return random_images_experiment(settings, self.device, side)

    def compare(self, contestants: dict[str, Callable[[], "Contestant"]], *references: str, repeats: int = 5) -> None:
        """Time contestants in turns, and write the speed of each, also relative to the references by label.

        Each is built, warmed up and timed once before the turns begin, so that a result exists early. One that fails is
        left out.
        """
        built: dict[str, Contestant] = {}
        for label, make in contestants.items():
            with self.attempt(label):
                before = self._start_counting_memory()
                contestant = make()
                contestant.warm_up(self)
                if self.on_cuda:
                    contestant.facts["peak MiB"] = round((torch.cuda.max_memory_allocated() - before) / 2**20)
                self.note(label, **contestant.speed([contestant.measure(self)]), turns=1)
                built[label] = contestant
        times: dict[str, list[float]] = {label: [] for label in built}
        for _ in range(2 if self.tiny else repeats):
            for label, contestant in built.items():
                times[label].append(contestant.measure(self))
        for label, contestant in built.items():
            relative = {}
            for reference in (name for name in references if name in times):
                low, middle, high = ratios(times[reference], times[label])
                relative[f"speed relative to {reference}"] = f"{middle:.2f}x [{low:.2f}, {high:.2f}]"
            self.note(label, **contestant.speed(times[label]), turns=len(times[label]), **relative)
        built.clear()
        gc.collect()
        if self.on_cuda:
            torch.cuda.empty_cache()

    def _start_counting_memory(self) -> int:
        """Forget the peak memory so far, and return the bytes in use."""
        if not self.on_cuda:
            return 0
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()


class Contestant:
    """A function that is timed, a block of calls at a time.

    Args:
        function: the function.
        images: real images that a call shows to D; 0 if speed in images does not apply.
        warm_up_calls: calls before the first measurement.
        facts: written with the speed.
    """

    def __init__(self, function: Callable[[], object], images: int = 0, warm_up_calls: int = 3, **facts: Any):
        self.function, self.images, self.warm_up_calls, self.facts = function, images, warm_up_calls, facts
        self.calls = 1

    def warm_up(self, task: Task, block_seconds: float = 0.15) -> None:
        """Call the function until its speed is constant, and choose the number of calls of a block."""
        for _ in range(self.warm_up_calls):
            self.function()
        seconds = measure_seconds(self.function, task.device)
        self.calls = 1 if task.tiny else max(2, min(2000, round(block_seconds / seconds)))

    def measure(self, task: Task) -> float:
        """Return the seconds of a call, as the mean of a block that the host waits for at its end."""

        def block() -> None:
            for _ in range(self.calls):
                self.function()

        return measure_seconds(block, task.device) / self.calls

    def speed(self, seconds: list[float]) -> dict[str, Any]:
        """Return the median time of a call, the range of the times, and the speed."""
        middle = statistics.median(seconds)
        numbers: dict[str, Any] = {"images/s": round(self.images / middle, 1)} if self.images else {}
        spread = f"{1000 * min(seconds):.3g} to {1000 * max(seconds):.3g}"
        return numbers | {"ms": 1000 * middle, "ms, range": spread, **self.facts}


def step_contestant(experiment: Experiment) -> Contestant:
    """Return the training step of an experiment as a contestant, captured as a CUDA graph when it is timed."""
    step = partial(training_step, experiment, *compile_networks(experiment))
    captured = experiment.graphs is not None
    return Contestant(step, experiment.config.train.images_per_step, WARMUP_CALLS + 2, captured=captured)


def to_numbers(losses: dict[str, Tensor]) -> dict[str, float]:
    """Return losses as numbers."""
    return {name: value.item() for name, value in losses.items()}


def largest_difference(a: dict[str, float], b: dict[str, float]) -> float:
    """Return the largest difference of two sets of losses, relative to 1 or to the loss if that is larger."""
    return max(abs(a[name] - b[name]) / max(1.0, abs(a[name])) for name in a)


def capture(function: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Return a function that replays `function` as a CUDA graph; on a CPU, `function` itself."""
    if device.type != "cuda":
        return function
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMUP_CALLS):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        function()
    return graph.replay
