"""Reads the event files of TensorBoard in a run folder."""

from pathlib import Path

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray


def load(folder: Path) -> EventAccumulator:
    """Return everything in the event files of a folder."""
    return EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()


def read_tags(folder: Path, plugin: str = "scalars") -> set[str]:
    """Return the tags of the numbers, or of the `images`, `histograms` or `text`."""
    return set(load(folder).PluginTagToContent(plugin))


def read_scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    """Return the steps and the values of a number."""
    return [(event.step, make_ndarray(event.tensor_proto).item()) for event in load(folder).Tensors(tag)]


def read_steps(folder: Path, tag: str) -> list[int]:
    """Return the steps at which something was written under a tag."""
    return [event.step for event in load(folder).Tensors(tag)]


def read_description(folder: Path, tag: str) -> str:
    """Return the description of a tag."""
    return load(folder).SummaryMetadata(tag).summary_description
