"""Checks of what a file tells about a generator without the data set: the images and their labels."""

from collections.abc import Mapping
from typing import Any

from gan.run.state import get_entry
from models import ImageShape
from models.ranges import AT_LEAST_0, INT64, SIZE, Range


def check_labels(state: Mapping[str, Any], num_classes: int | None) -> None:
    """Raise ValueError unless the label frequencies in a state, which may be missing, are those of these classes."""
    counts = state.get("label_counts")
    if counts is None:
        return
    if not _are_integers(counts, AT_LEAST_0) or len(counts) != num_classes or not 0 < sum(counts) <= INT64.max:
        raise ValueError(f"its entry label_counts does not fit: not the frequencies of {num_classes or 'no'} classes")


def read_image_shape(state: Mapping[str, Any]) -> ImageShape:
    """Return the shape of the images in a state. Raises ValueError if there is none."""
    shape = get_entry(state, "image")
    if not isinstance(shape, tuple | list) or len(shape) != len(ImageShape._fields):
        raise ValueError("its entry image does not fit: not the shape of images")
    channels, resolution, num_classes = shape
    if not _are_integers([channels, resolution, 1 if num_classes is None else num_classes], SIZE):
        raise ValueError("its entry image does not fit: not the shape of images")
    return ImageShape(channels, resolution, num_classes)


def _are_integers(values: Any, allowed: Range) -> bool:
    return isinstance(values, tuple | list) and all(type(value) is int and value in allowed for value in values)
