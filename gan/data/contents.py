"""Notices that the images of a data set are not those with which a run began."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gan.data.base import Splits
from gan.runtime.errors import UserError

Contents = dict[str, tuple[int, str] | None]
"""The number of images of each split and their fingerprint, or None if there is no such split"""


def get_contents(splits: Splits) -> Contents:
    """Return what identifies the images of the splits and their labels."""
    named = {"training": splits.train, "held-out": splits.held_out}
    return {name: None if data is None else (len(data), data.fingerprint) for name, data in named.items()}


def parse_contents(text: str) -> Contents | None:
    """Return contents from JSON, or None if they are unknown. Raises ValueError for other values."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("not the images by name")
    return {name: tuple(split) if isinstance(split, list) else None for name, split in value.items()}


def refuse_changed_images(run: Path, saved: Mapping[str, object] | None, current: Contents, allowed: bool) -> None:
    """Raise UserError if the images are not those in `saved`, the contents in a checkpoint of `run`, unless `allowed`.

    A checkpoint of an earlier version has none, and its images are not checked. Held-out images where there were none
    are no change: the run has not used others.
    """
    if saved is None or allowed:
        return
    changes = [
        f"the {name} images have changed since the run began ({_describe(saved.get(name))} then, {_describe(now)} now)"
        for name, now in current.items()
        if saved.get(name) not in (now, None)
    ]
    if changes:
        raise UserError(
            f"{run}: {' and '.join(changes)}, or another version of Pillow decodes them differently; restore them, or"
            " set data.allow_changes=true to go on with others"
        )


def withdraw_permission(config: Any) -> Any:
    """Return the config of a run as it is stored: a change of the images is allowed for one command, not for all."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, allow_changes=False))


def _describe(split: object) -> str:
    match split:
        case (int(count), str(fingerprint)):
            return f"{count:,} with fingerprint {fingerprint[:8]}"
        case _:
            return "none"
