"""Options of the log and the checkpoints, shared by GANs and classifiers."""

from dataclasses import dataclass
from typing import Annotated

from gan.run.writers import WRITERS
from models.ranges import AT_LEAST_1


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """The log of a run; `metrics.jsonl` is always written."""

    every: Annotated[int, AT_LEAST_1] = 25
    """Steps between log entries"""
    to: tuple[str, ...] = ("tensorboard",)
    """Additional writers of numbers, images and histograms"""

    def __post_init__(self):
        """Raise ValueError for an unknown writer."""
        for name in self.to:
            WRITERS.get(name)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints in the run folder; the last step is always saved."""

    every: Annotated[int, AT_LEAST_1] = 500
    """Steps between checkpoints"""
    keep: Annotated[int, AT_LEAST_1] = 2
    """Number of newest checkpoints to keep, besides the best one"""
