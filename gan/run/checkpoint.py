"""Checkpoints: written whole or not at all, checked and loaded without running code."""

import hashlib
import os
import pickle
import warnings
from pathlib import Path
from typing import IO, Any, Literal, cast

import torch

from gan.options.loader import dump_config, parse_config
from gan.run import folder as run_folder
from gan.runtime.errors import UserError
from gan.runtime.files import write_atomically

MARK = b"sha256"  # stands between what torch.save wrote and its digest
CHUNK = 2**20


class Checkpoints:
    """The folder `checkpoints/` of a run: `step_00000500.pt` for the newest few, and `best.pt`.

    Each file ends in its SHA-256 and holds the config of its run.
    """

    def __init__(self, folder: Path, config: Any):
        self.folder = folder / "checkpoints"
        self.keep = config.checkpoint.keep
        self.config = config

    def save(self, state: dict[str, Any]) -> None:
        """Write the state of `state["step"]` and remove the oldest beyond `keep`."""
        newest = self._path(state["step"])
        self._write(newest, state)
        # Later ones are broken, or the run would have gone on from them: they count for nothing.
        for path in [path for path in self._numbered() if path <= newest][: -self.keep]:
            path.unlink()

    def save_best(self, state: dict[str, Any]) -> None:
        """Write the state as the best one so far."""
        self._write(self.folder / "best.pt", state)

    def load_newest(self, device: torch.device | str) -> dict[str, Any] | None:
        """Return the newest whole state of this run on `device`, or None when there is no checkpoint.

        Those that it passes over are named in a warning; UserError when none is whole.
        """
        faults: list[str] = []
        for path in reversed(self._numbered()):
            try:
                state = self._load(path, device)
            except UserError as error:
                faults.append(str(error))
                continue
            if faults:
                warnings.warn(f"going on from {path.name}: {'; '.join(faults)}", stacklevel=2)
            return state
        if faults:
            raise UserError(f"{'; '.join(faults)}; no other is left: train again in another folder")
        return None

    def load_best(self, device: torch.device) -> dict[str, Any] | None:
        """Return the best state on `device`, or None when there is none; UserError when it is not whole."""
        path = self.folder / "best.pt"
        return self._load(path, device) if path.exists() else None

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}.pt"

    def _numbered(self) -> list[Path]:
        return sorted(self.folder.glob("step_*.pt"))

    def _write(self, path: Path, state: dict[str, Any]) -> None:
        write_atomically(path, lambda file: save(state | {"config": dump_config(self.config)}, file))

    def _load(self, path: Path, device: torch.device | str) -> dict[str, Any]:
        state = load(path, device)
        held = parse_config(type(self.config), state["config"], str(path))
        if changed := run_folder.changes(held, self.config):
            keys = ", ".join(changed)
            raise UserError(f"cannot use the checkpoint {path}: it is of another config (it differs in {keys})")
        return state


class _Hashing:
    """A binary file that hashes what is written to it."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def save(state: dict[str, Any], file: IO[bytes]) -> None:
    """Write a state as torch.save does, and after it its SHA-256."""
    hashing = _Hashing(file)
    torch.save(state, cast(IO[bytes], hashing))  # of which it calls `write` and `flush` alone
    file.write(MARK + hashing.hash.digest())


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the state in a checkpoint file; UserError when the file is not whole, or holds anything but a state."""
    try:
        check_whole(path)
        state = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(state, dict) or not isinstance(state.get("config"), str):
            raise ValueError("it holds no state of a run")
    except pickle.UnpicklingError:  # whose text tells how to load it nevertheless
        raise UserError(f"cannot read the checkpoint {path}: it holds more than numbers, maybe code") from None
    except Exception as error:  # torch.load raises many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot read the checkpoint {path}: {reason}") from None
    return state


def check_whole(path: Path) -> None:
    """Raise ValueError when a file does not end in its own SHA-256."""
    sha256 = hashlib.sha256()
    ending = len(MARK) + sha256.digest_size
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - ending
        while left > 0:
            data = file.read(min(CHUNK, left))
            sha256.update(data)
            left -= len(data) or left
        if file.read() != MARK + sha256.digest():
            raise ValueError("its checksum is missing or wrong: cut short, changed, or by another program")


Which = Literal["newest", "best"]


def newest_or_best(folder: Path, config: Any, device: torch.device, which: Which) -> dict[str, Any]:
    """Return the state in a checkpoint of the run of `config` in `folder`; UserError when there is none."""
    checkpoints = Checkpoints(folder, config)
    state = checkpoints.load_newest(device) if which == "newest" else checkpoints.load_best(device)
    if state is None:
        raise UserError(
            f"{folder} has no checkpoint yet; train on with --resume"
            if which == "newest"
            else f"{folder} has no best checkpoint yet, since no metric was evaluated; take the newest"
        )
    return state
