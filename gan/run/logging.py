"""Where the numbers of a run go: `metrics.jsonl`, for programs, and writers such as TensorBoard, for the eye."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from gan.data.grids import save_png
from gan.run.writers import WRITERS
from gan.runtime.files import append, write_atomically


class RunLogger:
    """Writes one line of JSON per logged step, and the same numbers under the same tags to the writers called `to`.

    Opening it at step `start` drops what was logged after that step, so that a resumed run repeats nothing. `network`
    is the one whose Lipschitz constant is logged.
    """

    def __init__(self, folder: Path, start: int = 0, network: str = "D", to: Sequence[str] = ("tensorboard",)):
        self.path = folder / "metrics.jsonl"
        kept = {line["step"]: line for line in read_lines(self.path) if line["step"] <= start}
        text = "".join(json.dumps(line) + "\n" for line in kept.values())
        write_atomically(self.path, lambda file: file.write(text.encode()))
        self._writers = [WRITERS.get(name)(folder, start, network) for name in to]

    def scalars(self, step: int, d_steps: int | None, images: int, numbers: dict[str, float]) -> None:
        """Log the numbers by tag after step `step`; `d_steps` counts D's updates (None: there is no D), `images` the
        training images seen.
        """
        finite = {tag: value if math.isfinite(value) else None for tag, value in numbers.items()}  # JSON knows no NaN
        counters = {"step": step} | ({} if d_steps is None else {"d_steps": d_steps}) | {"images": images}
        append(self.path, f"{json.dumps(counters | finite)}\n".encode())
        for writer in self._writers:
            writer.scalars(step, numbers)

    def image(self, tag: str, step: int, image: Tensor) -> None:
        """Log an image (C, H, W) uint8, and write it to `tag/step_00000500.png`."""
        save_png(self.path.parent / tag / f"step_{step:08d}.png", image)
        for writer in self._writers:
            writer.image(tag, step, image)

    def histograms(self, step: int, values: dict[str, Tensor]) -> None:
        """Log the distribution of each tensor by tag."""
        for writer in self._writers:
            writer.histograms(step, values)

    def close(self) -> None:
        """Close the writers; the lines are written already."""
        for writer in self._writers:
            writer.close()


def read_lines(path: Path) -> list[dict]:
    """Return the whole lines of a metrics.jsonl; a last line that was cut short is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        lines.append(line)
    return lines
