"""The contract of a writer: what is logged beside `metrics.jsonl`, to a program that draws curves."""

from abc import ABC, abstractmethod
from pathlib import Path

from torch import Tensor

from models.registry import Registry

WRITERS: Registry["Writer"] = Registry("writer")


class Writer(ABC):
    """Shows the numbers of a run. The constructor drops what was logged after step `start`, or resumes before it.

    `folder` is the run's folder, which has its `config.yaml` already. `network` is the one whose Lipschitz constant
    is logged, as its tags call it.
    """

    @abstractmethod
    def __init__(self, folder: Path, start: int, network: str): ...

    @abstractmethod
    def scalars(self, step: int, numbers: dict[str, float]) -> None:
        """Show the numbers by tag after step `step`; they may be infinite or NaN."""

    @abstractmethod
    def image(self, tag: str, step: int, image: Tensor) -> None:
        """Show an image (C, H, W) uint8 on the CPU."""

    @abstractmethod
    def histograms(self, step: int, values: dict[str, Tensor]) -> None:
        """Show the distribution of each tensor by tag."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left."""
