"""Where the numbers of a run go: TensorBoard events and, once more for programs, `metrics.jsonl`."""

import json
import math
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from gan.files import write_atomically
from gan.samples import save_png


def layout(network: str) -> dict:
    """Return TensorBoard's Custom Scalars tab: what is certified and what is observed of a network on one chart."""
    names = ("certified", "product", "slope", "gradient_max", "gradient_mean")
    lines = [f"^lipschitz/{network}/{name}$" for name in names]
    return {
        "Lipschitz": {
            f"{network}: certified above, observed below": ["Multiline", lines],  # set its axis to log
            f"{network}: norm of each layer": ["Multiline", [f"^lipschitz/{network}/layers/"]],
            f"{network}: stable rank of each layer": ["Multiline", [f"^lipschitz/{network}/stable_rank/"]],
        }
    }


class RunLogger:
    """Writes one line of JSON per logged step, and the same numbers to TensorBoard under the same tags.

    Opening it at step `start` drops what was logged after that step, so that a resumed run repeats nothing. `network`
    is the one whose Lipschitz constant is logged.
    """

    def __init__(self, folder: Path, start: int = 0, network: str = "D"):
        self.path = folder / "metrics.jsonl"
        kept = [line for line in read_lines(self.path) if line["step"] <= start]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(self.path, lambda file: file.write(text.encode()))
        self._file = self.path.open("a", encoding="utf-8")
        self._writer = SummaryWriter(str(folder), purge_step=start + 1)
        self._writer.add_custom_scalars(layout(network))

    def scalars(self, step: int, d_steps: int | None, images: int, numbers: dict[str, float]) -> None:
        """Log the numbers by tag after step `step`; `d_steps` counts D's updates (None: there is no D), `images` the
        training images seen.
        """
        finite = {tag: value if math.isfinite(value) else None for tag, value in numbers.items()}  # JSON knows no NaN
        counters = {"step": step} | ({} if d_steps is None else {"d_steps": d_steps}) | {"images": images}
        line = counters | finite
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for tag, value in numbers.items():
            self._writer.add_scalar(tag, value, step)

    def image(self, tag: str, step: int, image: Tensor) -> None:
        """Log an image (C, H, W) uint8, and write it to `tag/step_00000500.png`."""
        save_png(self.path.parent / tag / f"step_{step:08d}.png", image)
        self._writer.add_image(tag, image, step)

    def histograms(self, step: int, values: dict[str, Tensor]) -> None:
        """Log the distribution of each tensor by tag."""
        for tag, tensor in values.items():
            self._writer.add_histogram(tag, tensor, step)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._writer.close()


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
