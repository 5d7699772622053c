"""Recognizes folders that hold the splits of a dataset, such as train/ and val/, instead of its classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from gan.data.prepared import printable
from gan.runtime.errors import UserError

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


def find_split_folders(root: Path, names: Sequence[str]) -> SplitFolders | None:
    """Return the folders of the splits among the first-level folders of images, or None if these are classes.

    They are splits if they have no other names than those of `SPLITS`, in any case, and one is for training. If there
    is a validation and a test folder, the former is held out and the latter is not used.

    Args:
        root: folder of the dataset.
        names: paths of its images, relative to it and with '/' as the separator.

    Raises:
        UserError: If the folders look like splits, but it is unclear which images are for training: so validation
            images are never trained on by mistake.
    """
    folders: dict[str, set[str]] = {}  # the second-level folders of each first-level folder
    stray = next((name for name in names if "/" not in name), None)
    for name in names:
        first, *rest = name.split("/")
        if rest:
            folders.setdefault(first, set()).update(rest[:-1][:1])
    found: dict[Split, str] = {}
    for folder in folders:
        if (split := SPLITS.get(folder.lower())) is not None:
            if split in found:
                raise _unclear(root, f"both '{found[split]}' and '{folder}' look like its {split} images; keep one")
            found[split] = folder
    others = folders.keys() - found.values()
    held_out = found.get("validation") or found.get("test")
    if not found or (held_out is None and (others or stray)):
        return None
    if "train" not in found:
        assert held_out is not None
        if not others and not stray:
            raise _unclear(root, f"it has '{held_out}' but no folder 'train'; choose the folder of the training images")
        if folders[held_out] & others:  # root/CLASS next to root/val/CLASS
            raise _unclear(root, f"'{held_out}' looks like its held-out images; add data.held_out={root / held_out}")
        return None
    if others or stray:
        other = printable(min(others) if others else stray)
        raise _unclear(root, f"it has the splits '{found['train']}' and '{held_out}', but also '{other}'; move it away")
    return SplitFolders(found["train"], held_out, found.get("test") if "validation" in found else None)


def _unclear(root: Path, reason: str) -> UserError:
    return UserError(f"data.root: the training images in '{printable(root)}' are unclear: {reason}")
