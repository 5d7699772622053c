"""Checkpoints: written atomically, verified by a checksum, and loaded without running code from the file."""

import errno
import os
import pickle
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from gan.options.loader import dump_config, parse_config
from gan.run import folder as run_folder
from gan.run.lock import check_lock
from gan.run.logging import read_log
from gan.run.step_files import BEST, CHECKPOINTS, SUFFIX, find_checkpoint_entries, find_checkpoints, get_step_file
from gan.runtime import signed
from gan.runtime.errors import UserError, is_out_of_memory
from gan.runtime.files import write_atomically

FORMAT = 1
"""Version of the contents. Files of earlier versions have none, and their contents are the same."""

Which = Literal["newest", "best"]
State = dict[str, Any]
T = TypeVar("T")


class InvalidCheckpoint(UserError):
    """A file that is not a checkpoint of this run, or that this version cannot load."""


class Checkpoints:
    """The folder `checkpoints/` of a run: the newest few as `step_00000500.pt`, and `best.pt`.

    Each file contains the config of its run and ends with its own SHA-256.
    """

    def __init__(self, folder: Path, config: Any):
        self.run, self.folder = folder, folder / CHECKPOINTS
        self.keep = config.checkpoint.keep
        self.config = config

    def save(self, state: State) -> None:
        """Write the state of step `state["step"]` and remove the oldest files beyond `keep`.

        Files with other names than those of checkpoints stay.
        """
        step = state["step"]
        self._write(get_step_file(self.folder, step, SUFFIX), state)
        # Later files are broken, otherwise the run would have continued from them: they do not count.
        for path in [path for saved, path in find_checkpoints(self.run).items() if saved <= step][: -self.keep]:
            path.unlink()

    def save_best(self, state: State) -> None:
        """Write the state as the best one so far."""
        self._write(self._best, state)

    def load_newest(self, device: torch.device | str, read: Callable[[State], T]) -> T | None:
        """Return what `read` returns for the newest valid state of this run on `device`, or None without checkpoints.

        `read` raises ValueError for a state that does not fit the run. Invalid files are skipped with a warning. Raises
        UserError when all files are invalid, and when the log tells that there must have been one.
        """
        faults: list[str] = []
        for step, path in reversed(find_checkpoint_entries(self.run).items()):
            try:
                value = self._load(path, device, read, step)
            except InvalidCheckpoint as error:
                faults.append(str(error))
                continue
            if faults:
                warnings.warn(f"continuing from {path.name}: {'; '.join(faults)}", stacklevel=2)
            return value
        if not faults and (last := self._get_last_logged_step()) > self.config.checkpoint.every:
            raise UserError(
                f"{self.run} was trained to step {last}, but {self.folder} has no checkpoint; restore that"
                " folder, or train again in another one"
            )
        if faults:
            raise UserError(f"{'; '.join(faults)}; there is no other checkpoint: train again in another folder")
        return None

    def load(self, which: Which, device: torch.device | str, read: Callable[[State], T]) -> T:
        """Return what `read` returns for the newest or the best state, see `load_newest`.

        Raises UserError when there is none.
        """
        self.require(which)
        if which == "best":
            return self._load(self._best, device, read)
        value = self.load_newest(device, read)
        assert value is not None  # there is a checkpoint
        return value

    def require(self, which: Which) -> None:
        """Raise UserError when there is no newest or no best checkpoint. This takes no time."""
        if which == "newest" and not find_checkpoint_entries(self.run):
            raise UserError(f"{self.run} has no checkpoint yet; continue training with --resume")
        if which == "best" and not os.path.lexists(self._best):
            raise UserError(f"{self.run} has no best checkpoint, because no metric was evaluated; use the newest one")

    def find_files(self) -> list[Path]:
        """Return the files of all checkpoints."""
        best = [self._best] if self._best.is_file() else []
        return [*find_checkpoints(self.run).values(), *best]

    def _get_last_logged_step(self) -> int:
        return max((line["step"] for line in read_log(self.run).lines), default=0)

    @property
    def _best(self) -> Path:
        return self.folder / BEST

    @cached_property
    def _config_text(self) -> str:
        return dump_config(self.config)

    def _write(self, path: Path, state: State) -> None:
        check_lock(self.run)
        write_atomically(path, lambda file: signed.save(state | {"format": FORMAT, "config": self._config_text}, file))

    def _load(self, path: Path, device: torch.device | str, read: Callable[[State], T], step: int | None = None) -> T:
        """Return what `read` returns for the state in a file, which is that of `step` if it is given."""
        state = load(path, device)
        try:
            if (version := state.get("format", FORMAT)) != FORMAT:
                raise ValueError(f"it has the format {version!r} of another version, and this version has {FORMAT}")
            saved_config = parse_config(type(self.config), state["config"], path.name)
            if changed := run_folder.changed_keys(saved_config, self.config):
                raise ValueError(f"it belongs to another config (different: {', '.join(changed)})")
            if step not in (None, state.get("step")):
                raise ValueError(f"it contains another step than its name says ({state.get('step')!r})")
            return read(state)
        except Exception as error:  # values that no version has written can raise errors of many types
            if is_out_of_memory(error):
                raise
            raise InvalidCheckpoint(f"cannot use the checkpoint {path}: {error}") from None


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the state in a checkpoint file.

    Raises InvalidCheckpoint, which is a UserError, for a file that is damaged or not a checkpoint, and other errors if
    this cannot be known now: OSError, and the many types of a lack of memory.
    """
    try:
        state = signed.load(path, device=device)
        if not isinstance(state, dict) or not isinstance(state.get("config"), str):
            raise ValueError("it does not contain the state of a run")
    except Exception as error:  # torch.load raises exceptions of many types
        if _is_passing(error):  # the file may be valid, so that an older one must not take its place
            raise
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error).partition("\n")[0]
        reason = reason or type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # it recommends loading the file with weights_only=False
            reason = "it contains objects other than tensors"
        raise InvalidCheckpoint(f"cannot read the checkpoint {path}: {reason}") from None
    return state


def _is_passing(error: Exception) -> bool:
    """Return whether an error tells nothing about the contents of a file: it may be read at another time."""
    # Others are no regular files: pipes and folders, and links to nothing.
    is_unread = isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.ENOENT)
    return is_unread or is_out_of_memory(error)
