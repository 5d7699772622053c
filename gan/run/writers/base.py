"""The interface of writers, which log to other programs besides `metrics.jsonl`."""

from abc import ABC, abstractmethod
from pathlib import Path

from torch import Tensor

from models.registry import Registry

WRITERS: Registry["Writer"] = Registry("writer")


class Writer(ABC):
    """Base class of writers.

    The constructor drops everything that was logged after step `start`. `folder` is the run folder, which already
    contains `config.yaml`. `network` is the network whose Lipschitz constant is logged, as it is named in the tags.
    """

    @abstractmethod
    def __init__(self, folder: Path, start: int, network: str): ...

    @abstractmethod
    def scalars(self, step: int, numbers: dict[str, float]) -> None:
        """Log numbers by tag after step `step`; they may be infinite or NaN."""

    @abstractmethod
    def image(self, tag: str, step: int, image: Tensor) -> None:
        """Log an image (C, H, W) uint8 on the CPU."""

    @abstractmethod
    def histograms(self, step: int, values: dict[str, Tensor]) -> None:
        """Log the distribution of each tensor by tag."""

    @abstractmethod
    def close(self) -> None:
        """Write buffered data and close."""
