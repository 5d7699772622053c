"""The log of a run: `metrics.jsonl` for programs, and writers such as TensorBoard for people."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from gan.data.grids import save_png
from gan.run.writers import WRITERS
from gan.runtime.files import append, write_text

METRICS = "metrics.jsonl"


class RunLogger:
    """Appends JSON lines to `metrics.jsonl`, and sends the same numbers under the same tags to the writers in `to`.

    Entries after step `start` are dropped, so that a resumed run logs no step twice. `network` is the network whose
    Lipschitz constant is logged, as it is named in the tags.
    """

    def __init__(self, folder: Path, start: int = 0, network: str = "D", to: Sequence[str] = ("tensorboard",)):
        self._folder = folder
        self._path = folder / METRICS
        write_text(
            self._path, "".join(json.dumps(line) + "\n" for line in read_metrics(folder) if line["step"] <= start)
        )
        self._writers = [WRITERS.get(name)(folder, start, network) for name in to]

    def scalars(self, counters: Mapping[str, int], numbers: Mapping[str, float]) -> None:
        """Log numbers by tag. `counters` are written with them: `step`, `images` (training images seen), and so on."""
        finite = {tag: value if math.isfinite(value) else None for tag, value in numbers.items()}  # JSON has no NaN
        append(self._path, f"{json.dumps({**counters, **finite})}\n".encode())
        for writer in self._writers:
            writer.scalars(counters["step"], dict(numbers))

    def image(self, tag: str, step: int, image: Tensor) -> None:
        """Log an image (C, H, W) uint8, and write it to `TAG/step_00000500.png` in the run folder."""
        save_png(self.get_image_path(tag, step), image)
        for writer in self._writers:
            writer.image(tag, step, image)

    def get_image_path(self, tag: str, step: int) -> Path:
        """Return the path of an image in the run folder."""
        return self._folder / tag / f"step_{step:08d}.png"

    def histograms(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Log the distribution of each tensor by tag; `metrics.jsonl` does not contain it."""
        for writer in self._writers:
            writer.histograms(step, dict(values))

    def close(self) -> None:
        """Close the writers. The lines of `metrics.jsonl` are already on disk."""
        for writer in self._writers:
            writer.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the logged numbers of the run in `folder`, one dict by tag for each step.

    The lines of one step are merged. An incomplete last line, which a killed run leaves, is skipped. Empty without a
    log.
    """
    path = folder / METRICS
    if not path.exists():
        return []
    steps: dict[int, dict[str, Any]] = {}
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        steps.setdefault(line["step"], {}).update(line)
    return list(steps.values())
