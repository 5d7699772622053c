"""Recognizes folders that hold the splits of a dataset, such as train/ and val/, instead of its classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from gan.runtime.errors import UserError
from gan.runtime.text import printable

Split = Literal["train", "validation", "test"]

# Names of folders, in lower case.
SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class SplitFolders(NamedTuple):
    """The names of the folders of a dataset's splits."""

    train: str
    held_out: str | None
    unused: str | None = None


def find_split_folders(root: Path, names: Sequence[str], held_out: Sequence[str] | None = None) -> SplitFolders | None:
    """Return the folders of the splits among the first-level folders of images, or None if these are classes.

    They are splits if they have no other names than those of `SPLITS`, in any case, and one is for training. If there
    is a validation and a test folder, the former is held out and the latter is not used.

    Args:
        root: folder of the dataset.
        names: paths of its images, relative to it and with '/' as the separator.
        held_out: paths of its other images, which `data.held_out` names; None without it.

    Raises:
        UserError: If the folders look like splits, but it is unclear which images are for training: so validation
            images are never trained on by mistake.
    """
    stray, folders = find_unclassed(names), find_first_folders(names)
    found: dict[Split, str] = {}
    for folder in folders:
        if (split := SPLITS.get(folder.lower())) is not None:
            if split in found:
                raise _unclear(root, f"both '{found[split]}' and '{folder}' look like its {split} images; keep one")
            found[split] = folder
    others = folders.keys() - found.values()
    test = found.get("test")
    remaining = found.get("validation") or test
    for folder in find_first_folders(held_out or ()):
        if (split := SPLITS.get(folder.lower())) is not None:
            found.setdefault(split, folder)
    held_out_folder = found.get("validation") or found.get("test")
    if "train" not in found:
        if remaining is None:
            return None
        if not others and not stray:
            reason = f"it has '{remaining}' but no folder 'train'; choose the folder of the training images"
            raise _unclear(root, reason)
        advice = f"add data.held_out={root / remaining}" if held_out is None else "move it away or rename it"
        raise _unclear(root, f"'{remaining}' looks like its held-out images; {advice}")
    if others or stray:
        if held_out_folder is None:  # `train` is a class
            return None
        other = printable(min(others) if others else stray)
        splits = f"'{found['train']}' and '{held_out_folder}'"
        raise _unclear(root, f"it has the splits {splits}, but also '{other}'; move it away")
    return SplitFolders(found["train"], remaining, test if remaining != test else None)


def find_unclassed(names: Sequence[str]) -> str | None:
    """Return an image that is in no subfolder, or None."""
    return next((name for name in names if "/" not in name), None)


def find_first_folders(names: Sequence[str]) -> dict[str, None]:
    """Return the first-level folders of images, in the order of the images."""
    return dict.fromkeys(name.split("/")[0] for name in names if "/" in name)


def _unclear(root: Path, reason: str) -> UserError:
    return UserError(f"data.root: the training images in '{printable(root)}' are unclear: {reason}")
