"""TensorBoard's event files, in the run folder: a service to a run, which goes on without it."""

import threading
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from gan.run.writers.base import WRITERS, Writer


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


@WRITERS.register("tensorboard")
class TensorBoard(Writer):
    """Event files that `tensorboard --logdir RUN` shows."""

    def __init__(self, folder: Path, start: int, network: str):
        self._events = Events(folder, purge_step=start + 1)
        self._events.add("custom_scalars", layout(network))

    def scalars(self, step: int, numbers: dict[str, float]) -> None:
        """Write the numbers under their tags."""
        for tag, value in numbers.items():
            self._events.add("scalar", tag, value, step)

    def image(self, tag: str, step: int, image: Tensor) -> None:
        """Write an image (C, H, W) uint8."""
        self._events.add("image", tag, image, step)

    def histograms(self, step: int, values: dict[str, Tensor]) -> None:
        """Write the distribution of each tensor."""
        for tag, tensor in values.items():
            self._events.add("histogram", tag, tensor, step)

    def close(self) -> None:
        """Flush and close the file."""
        self._events.close()


class Events:
    """A `SummaryWriter` of a run folder that ends with a warning, once, when its file cannot be written.

    The numbers are in `metrics.jsonl` as well, and the samples in `samples/`.
    """

    def __init__(self, folder: Path, purge_step: int):
        from torch.utils.tensorboard import SummaryWriter  # takes a second: only where it is used

        self._writer: SummaryWriter | None = None
        self._usual_hook = threading.excepthook
        threading.excepthook = self._hook
        try:
            self._writer = SummaryWriter(str(folder), purge_step=purge_step)
        except Exception as error:  # OSError, and what TensorBoard makes of it
            self._give_up(error)

    def add(self, kind: str, *args: Any) -> None:
        """Call `add_KIND` of the writer."""
        if self._writer is not None:
            try:
                getattr(self._writer, f"add_{kind}")(*args)
            except Exception as error:  # what the writer's thread met with before
                self._give_up(error)

    def close(self) -> None:
        """Flush and close the file."""
        if self._writer is not None:
            try:
                self._writer.close()
            except Exception as error:
                self._give_up(error)
        self._writer = None
        threading.excepthook = self._usual_hook

    def _give_up(self, error: Exception) -> None:
        self._writer = None
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        warnings.warn(f"TensorBoard events cannot be written ({reason}); going on without them", stacklevel=4)

    def _hook(self, args: threading.ExceptHookArgs) -> None:
        # The writer's thread: its error comes again at the next call, to be said in one line.
        if not type(args.thread).__module__.startswith("tensorboard."):
            self._usual_hook(args)
