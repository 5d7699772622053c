"""The options of a run folder, which GANs and classifiers share: log and checkpoints."""

from dataclasses import dataclass
from typing import Annotated

from gan.run.writers import WRITERS
from models.ranges import AT_LEAST_1


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """The numbers of a run, always in metrics.jsonl."""

    every: Annotated[int, AT_LEAST_1] = 25
    """Steps between log entries"""
    to: tuple[str, ...] = ("tensorboard",)
    """Writers that show the numbers, images and histograms too"""

    def __post_init__(self):
        """Raise ValueError for a writer that does not exist."""
        for name in self.to:
            WRITERS.get(name)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints in the run folder; the last step is always kept."""

    every: Annotated[int, AT_LEAST_1] = 500
    """Steps between checkpoints"""
    keep: Annotated[int, AT_LEAST_1] = 2
    """Newest checkpoints to keep, besides the best one"""
