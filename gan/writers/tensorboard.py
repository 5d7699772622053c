"""TensorBoard's event files, in the run folder."""

from pathlib import Path

from torch import Tensor

from gan.writers.base import WRITERS, Writer


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
        from gan.events import Events

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
