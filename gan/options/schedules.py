"""Numbers of a config that may change during training: each is a number or a schedule.

A key of this type is annotated as a number is: `weight: Annotated[Scheduled, Range(min=0)]`. The range is that of the
number, and of both ends of a schedule.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from models.ranges import Range


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A number that changes from `start` to `end` during the first real images, and then stays there.

    With `schedule: cosine` it is that of R3GAN (Huang et al., NeurIPS 2024; `cosine_decay_with_warmup` in
    training/training_loop.py of brownvc/R3GAN, commit 19a7ddf), which also counts the real images of the
    discriminator's updates. That function has options for a warm-up and a delay, which none of its presets uses, and
    which are missing here.
    """

    start: float
    """Value at the first step"""
    end: float
    """Value at the end, and from then on"""
    schedule: Literal["linear", "cosine"] = "cosine"
    """How the value changes"""
    kimg: Annotated[float, Range(min=1e-3)] | None = None
    """Real images, in thousands, until the end (null: all images of the training)"""


Scheduled = float | Schedule


def get_value(option: Scheduled, images: int, total_images: int) -> float:
    """Return the value of an option after `images` real images of a training with `total_images`."""
    if not isinstance(option, Schedule):
        return option
    duration = total_images if option.kimg is None else 1000 * option.kimg
    progress = min(images / duration, 1.0)
    remaining = 1 - progress if option.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return option.start * remaining + option.end * (1 - remaining)
