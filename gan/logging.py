"""Where the numbers of a run go: TensorBoard events and, once more for programs, `metrics.jsonl`."""

import json
import math
from pathlib import Path

from torch import Tensor

from gan.events import Events
from gan.files import append, write_atomically

# TensorBoard's Custom Scalars tab: what is certified and what is observed on one chart (set its axis to log).
LAYOUT = {
    "Lipschitz": {
        "D: certified above, observed below": [
            "Multiline",
            [f"^lipschitz/D/{name}$" for name in ("certified", "product", "slope", "gradient_max", "gradient_mean")],
        ],
        "D: norm of each layer": ["Multiline", ["^lipschitz/D/layers/"]],
        "D: stable rank of each layer": ["Multiline", ["^lipschitz/D/stable_rank/"]],
    }
}


class RunLogger:
    """Writes one line of JSON per logged step, and the same numbers to TensorBoard under the same tags.

    Opening it at step `start` drops what was logged after that step, so that a resumed run repeats nothing.
    """

    def __init__(self, folder: Path, start: int = 0):
        self.path = folder / "metrics.jsonl"
        kept = [line for line in read_lines(self.path) if line["step"] <= start]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(self.path, lambda file: file.write(text.encode()))
        self._events = Events(folder, purge_step=start + 1)
        self._events.add("custom_scalars", LAYOUT)

    def scalars(self, step: int, d_steps: int, images: int, numbers: dict[str, float]) -> None:
        """Log the numbers by tag after generator update `step`; `images` counts the real images D has seen."""
        finite = {tag: value if math.isfinite(value) else None for tag, value in numbers.items()}  # JSON knows no NaN
        line = {"step": step, "d_steps": d_steps, "images": images, **finite}
        append(self.path, f"{json.dumps(line)}\n".encode())
        for tag, value in numbers.items():
            self._events.add("scalar", tag, value, step)

    def image(self, tag: str, step: int, image: Tensor) -> None:
        """Log an image (C, H, W) uint8."""
        self._events.add("image", tag, image, step)

    def histograms(self, step: int, values: dict[str, Tensor]) -> None:
        """Log the distribution of each tensor by tag."""
        for tag, tensor in values.items():
            self._events.add("histogram", tag, tensor, step)

    def close(self) -> None:
        """Flush and close the events; the lines are written already."""
        self._events.close()


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
