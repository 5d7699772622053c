"""The interface of writers, which log to other programs besides `metrics.jsonl`."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from models.registry import Registry

WRITERS: Registry["Writer"] = Registry("writer")


class Writer(ABC):
    """Base class of writers. Any method may raise an exception: the run then continues without this writer.

    The constructor drops everything that was logged after step `start`. `folder` is the run folder, which already
    contains `config.yaml`. `network` is the network whose Lipschitz constant is logged, as it is named in the tags.
    `lines` are the numbers of `metrics.jsonl` by tag, in the order of their steps, also those after `start`.
    """

    package: ClassVar[str | None] = None
    """An optional dependency that the writer imports; the extra of the same name installs it"""

    @abstractmethod
    def __init__(self, folder: Path, start: int, network: str, lines: Sequence[dict[str, Any]]): ...

    @abstractmethod
    def scalars(self, counters: Mapping[str, int], numbers: Mapping[str, float]) -> None:
        """Log numbers by tag; they may be infinite or NaN.

        `counters` are the `step` after which they are logged, `images` (training images seen), and so on.
        """

    @abstractmethod
    def image(self, tag: str, step: int, image: Tensor) -> None:
        """Log an image (C, H, W) uint8 on the CPU."""

    @abstractmethod
    def histograms(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Log the distribution of each tensor by tag."""

    @abstractmethod
    def close(self, is_complete: bool) -> None:
        """Write buffered data and close. `is_complete` is whether the run has reached its last step."""


def find_missing_packages(names: Sequence[str]) -> list[str]:
    """Return a line for each package that writers with these names need and that is not installed."""
    packages = dict.fromkeys(WRITERS.get(name).package for name in names)
    return [
        f"log.to: {package} is not installed: pip install -e '.[{package}]'"
        for package in packages
        if package is not None and not _is_installed(package)
    ]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a nested mapping by their dotted keys."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        values |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return values


def _is_installed(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None  # a folder that only has the same name has no origin
