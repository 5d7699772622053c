"""Programs that may be slow or out of reach: a thread calls them, so that training does not wait for them."""

import queue
import re
import threading
import uuid
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from gan.options.nodes import Loader
from gan.run.folder import CONFIG
from gan.run.lock import check_lock
from gan.run.step_files import SAMPLES, find_step_files
from gan.run.writers.base import Writer
from gan.runtime.damaged import read_json
from gan.runtime.files import write_json

PROJECT = "convnorm-gan"  # unless an environment variable of the program names another one
ID = re.compile(r"[0-9a-f]{8}")
MAX_WAITING = 1000  # calls that the program has not received yet
TIMEOUT_S = 60.0  # until it has received the last one
BINS = 64  # of a histogram

Histogram = tuple[np.ndarray, np.ndarray]
"""The counts, and the edges of the bins"""


class Service(Writer):
    """Base class of writers for a program that keeps what it has received, and that may be on another machine.

    A subclass says in a few methods how the program receives something. They are called in a thread, one after the
    other; the first error there ends the thread and is raised by the next call of the writer.

    The program knows the run by `id`. The file `PACKAGE.json` in the run folder contains it, so that a resumed run
    continues the same run of the program. The program cannot drop steps: what a run repeats after it has gone back to
    an earlier checkpoint is not sent again. A program that is added to an existing run first receives the numbers that
    the run already has.
    """

    def __init__(self, folder: Path, start: int, network: str, lines: Sequence[dict[str, Any]]):
        self.folder = folder
        saved = read_json(self._state_path, _is_valid, None)
        self.id: str = saved["id"] if saved else uuid.uuid4().hex[:8]
        self._sent: dict[str, int] = saved["sent"] if saved else {}  # the last step of each tag
        earlier = []
        for line in lines:
            if saved:
                self._sent |= {tag: max(line["step"], self._sent.get(tag, -1)) for tag in line}
            elif line["step"] <= start:
                earlier.append((line["step"], {tag: value for tag, value in line.items() if value is not None}))
        if saved:
            samples = find_step_files(folder / SAMPLES, ".png")
            self._sent[SAMPLES] = max([*samples, self._sent.get(SAMPLES, -1)])
            self._save_state(self._sent)
        self._last_step = self._sent.get("step", -1)  # of earlier sessions

        self._error: Exception | None = None
        self._calls: queue.Queue[Callable[[], Any] | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"log to {self.package}")
        self._put(self.open)
        self._put(partial(self._save_state, dict(self._sent)))  # not before the program has the run
        self._put(lambda: [self.send_numbers(step, numbers) for step, numbers in earlier])
        self._thread.start()

    @abstractmethod
    def open(self) -> None:
        """Begin or continue the run of the program with the name `id`."""

    @abstractmethod
    def send_numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        """Send numbers by tag."""

    @abstractmethod
    def send_image(self, tag: str, step: int, image: np.ndarray) -> None:
        """Send an image (H, W, C) uint8."""

    @abstractmethod
    def send_histograms(self, step: int, histograms: Mapping[str, Histogram]) -> None:
        """Send histograms by tag."""

    @abstractmethod
    def finish(self, is_complete: bool) -> str:
        """Send what is left and close the run. Return a line that tells the user where it is."""

    def scalars(self, counters: Mapping[str, int], numbers: Mapping[str, float]) -> None:
        """Send the counters, too, so that the program can plot over them."""
        step = counters["step"]
        new = {tag: value for tag, value in {**counters, **numbers}.items() if self._is_new(tag, step)}
        self._sent |= dict.fromkeys(new, step)  # the counters are the same at the next call for this step
        if new:
            self._put(partial(self.send_numbers, step, new))

    def image(self, tag: str, step: int, image: Tensor) -> None:
        """Send an image (C, H, W) uint8."""
        if self._is_new(tag, step):
            self._put(partial(self.send_image, tag, step, image.permute(1, 2, 0).numpy().copy()))

    def histograms(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Send a histogram of the finite values of each tensor."""
        if values and step > self._last_step:
            self._put(partial(self.send_histograms, step, {tag: count(tensor) for tag, tensor in values.items()}))

    def close(self, is_complete: bool) -> None:
        """Wait until everything is sent, at most `TIMEOUT_S`, and print where it is after the last step."""
        places: list[str] = []
        self._put(lambda: places.append(self.finish(is_complete)))
        self._put(None)
        self._thread.join(TIMEOUT_S)
        self._raise_error()
        if self._thread.is_alive():
            raise TimeoutError(f"it has not received everything after {TIMEOUT_S:.0f} s")
        if is_complete:
            print(*places, sep="\n")

    def read_config(self) -> dict[str, Any]:
        """Return the config of the run."""
        return yaml.load((self.folder / CONFIG).read_text("utf-8"), Loader)

    @property
    def _state_path(self) -> Path:
        return self.folder / f"{self.package}.json"

    def _save_state(self, sent: Mapping[str, int]) -> None:
        check_lock(self.folder)
        write_json(self._state_path, {"id": self.id, "sent": sent})

    def _is_new(self, tag: str, step: int) -> bool:
        return step > self._sent.get(tag, -1)

    def _put(self, call: Callable[[], Any] | None) -> None:
        self._raise_error()
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            raise TimeoutError(f"it has not received the last {MAX_WAITING} calls") from None

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while (call := self._calls.get()) is not None:
                call()
        except Exception as error:
            self._error = error


def count(values: Tensor) -> Histogram:
    """Return the histogram of the finite values of a tensor."""
    numbers = values.detach().to("cpu", torch.float64).flatten()
    return np.histogram(numbers[numbers.isfinite()].numpy(), BINS)


def _is_valid(state: Any) -> bool:
    return (
        isinstance(state, dict)
        and isinstance(state.get("id"), str)
        and ID.fullmatch(state["id"]) is not None
        and isinstance(state.get("sent"), dict)
        and all(type(step) is int for step in state["sent"].values())
    )
