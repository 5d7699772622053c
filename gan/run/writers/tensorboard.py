"""TensorBoard event files in the run folder. Training continues without them when they cannot be written."""

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from gan.run.writers.base import WRITERS, Writer


@WRITERS.register("tensorboard")
class TensorBoard(Writer):
    """Event files for `tensorboard --logdir RUN`. Warns once when they cannot be written.

    The numbers are also in `metrics.jsonl`, and the samples in `samples/`.
    """

    def __init__(self, folder: Path, start: int, network: str):
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self._writer: SummaryWriter | None = None
        try:
            self._writer = SummaryWriter(str(folder), purge_step=start + 1)
        except Exception as error:  # OSError, or an exception that TensorBoard raises from it
            self._give_up(error)
        self._add("custom_scalars", custom_scalars_layout(network))

    def scalars(self, step: int, numbers: dict[str, float]) -> None:
        """Write numbers under their tags."""
        for tag, value in numbers.items():
            self._add("scalar", tag, value, step)

    def image(self, tag: str, step: int, image: Tensor) -> None:
        """Write an image (C, H, W) uint8."""
        self._add("image", tag, image, step)

    def histograms(self, step: int, values: dict[str, Tensor]) -> None:
        """Write the distribution of each tensor."""
        for tag, tensor in values.items():
            self._add("histogram", tag, tensor, step)

    def close(self) -> None:
        """Flush and close the file."""
        if self._writer is not None:
            try:
                self._writer.close()
            except Exception as error:
                self._give_up(error)
        self._writer = None

    def _add(self, kind: str, *args: Any) -> None:
        """Call `add_KIND` of the SummaryWriter."""
        if self._writer is not None:
            try:
                getattr(self._writer, f"add_{kind}")(*args)
            except Exception as error:  # of this call, or of the writer's thread before
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._writer = None
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        warnings.warn(f"cannot write TensorBoard events ({reason}); continuing without them", stacklevel=4)


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
