"""TensorBoard event files in the run folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from gan.run.writers.base import WRITERS, Writer


@WRITERS.register("tensorboard")
class TensorBoard(Writer):
    """Event files for `tensorboard --logdir RUN`.

    The numbers are also in `metrics.jsonl`, and the samples in `samples/`.
    """

    def __init__(self, folder: Path, start: int, network: str, lines: Sequence[dict[str, Any]]):
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self._writer = SummaryWriter(str(folder), purge_step=start + 1)
        self._writer.add_custom_scalars(custom_scalars_layout(network))

    def scalars(self, counters: Mapping[str, int], numbers: Mapping[str, float]) -> None:
        """Write numbers under their tags."""
        for tag, value in numbers.items():
            self._writer.add_scalar(tag, value, counters["step"])

    def image(self, tag: str, step: int, image: Tensor) -> None:
        """Write an image (C, H, W) uint8."""
        self._writer.add_image(tag, image, step)

    def histograms(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Write the distribution of each tensor."""
        for tag, tensor in values.items():
            self._writer.add_histogram(tag, tensor, step)

    def close(self, is_complete: bool) -> None:
        """Flush and close the file."""
        self._writer.close()


def custom_scalars_layout(network: str) -> dict:
    """Return the layout of TensorBoard's Custom Scalars tab: certified and observed Lipschitz numbers in one chart."""
    names = ("certified", "product", "slope", "gradient_max", "gradient_mean")
    lines = [f"^lipschitz/{network}/{name}$" for name in names]
    return {
        "Lipschitz": {
            f"{network}: certified above, observed below": ["Multiline", lines],
            f"{network}: norm of each layer": ["Multiline", [f"^lipschitz/{network}/layers/"]],
            f"{network}: stable rank of each layer": ["Multiline", [f"^lipschitz/{network}/stable_rank/"]],
        }
    }
