"""Checkpoints: written atomically, verified by a checksum, and loaded without running code from the file."""

import pickle
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from gan.options.loader import dump_config, parse_config
from gan.run import folder as run_folder
from gan.runtime import signed
from gan.runtime.errors import UserError
from gan.runtime.files import write_atomically

Which = Literal["newest", "best"]


class Checkpoints:
    """The folder `checkpoints/` of a run: the newest few as `step_00000500.pt`, and `best.pt`.

    Each file contains the config of its run and ends with its own SHA-256.
    """

    def __init__(self, folder: Path, config: Any):
        self.folder = folder / "checkpoints"
        self.keep = config.checkpoint.keep
        self.config = config

    def save(self, state: dict[str, Any]) -> None:
        """Write the state of step `state["step"]` and remove the oldest files beyond `keep`."""
        newest = self._path(state["step"])
        self._write(newest, state)
        # Later files are broken, otherwise the run would have continued from them: they do not count.
        for path in [path for path in self._numbered() if path <= newest][: -self.keep]:
            path.unlink()

    def save_best(self, state: dict[str, Any]) -> None:
        """Write the state as the best one so far."""
        self._write(self.folder / "best.pt", state)

    def load_newest(self, device: torch.device | str) -> dict[str, Any] | None:
        """Return the newest valid state of this run on `device`, or None without checkpoints.

        Invalid files are skipped with a warning. Raises UserError when all files are invalid.
        """
        faults: list[str] = []
        for path in reversed(self._numbered()):
            try:
                state = self._load(path, device)
            except UserError as error:
                faults.append(str(error))
                continue
            if faults:
                warnings.warn(f"continuing from {path.name}: {'; '.join(faults)}", stacklevel=2)
            return state
        if faults:
            raise UserError(f"{'; '.join(faults)}; there is no other checkpoint: train again in another folder")
        return None

    def load_best(self, device: torch.device | str) -> dict[str, Any] | None:
        """Return the best state on `device`, or None without one. Raises UserError when the file is invalid."""
        path = self.folder / "best.pt"
        return self._load(path, device) if path.exists() else None

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}.pt"

    def _numbered(self) -> list[Path]:
        return sorted(self.folder.glob("step_*.pt"))

    @cached_property
    def _config_text(self) -> str:
        return dump_config(self.config)

    def _write(self, path: Path, state: dict[str, Any]) -> None:
        write_atomically(path, lambda file: signed.save(state | {"config": self._config_text}, file))

    def _load(self, path: Path, device: torch.device | str) -> dict[str, Any]:
        state = load(path, device)
        saved_config = parse_config(type(self.config), state["config"], str(path))
        if changed := run_folder.changed_keys(saved_config, self.config):
            keys = ", ".join(changed)
            raise UserError(f"cannot use the checkpoint {path}: it belongs to another config (different: {keys})")
        return state


def load_newest_or_best(folder: Path, config: Any, device: torch.device, which: Which) -> dict[str, Any]:
    """Return the newest or the best state of the run in `folder`, trained with `config`.

    Raises UserError when there is none.
    """
    checkpoints = Checkpoints(folder, config)
    state = checkpoints.load_newest(device) if which == "newest" else checkpoints.load_best(device)
    if state is None:
        raise UserError(
            f"{folder} has no checkpoint yet; continue training with --resume"
            if which == "newest"
            else f"{folder} has no best checkpoint, because no metric was evaluated; use the newest one"
        )
    return state


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the state in a checkpoint file. Raises UserError for a file that is damaged or not a checkpoint."""
    try:
        state = signed.load(path, device=device)
        if not isinstance(state, dict) or not isinstance(state.get("config"), str):
            raise ValueError("it does not contain the state of a run")
    except pickle.UnpicklingError:  # its message recommends loading the file with weights_only=False
        raise UserError(f"cannot read the checkpoint {path}: it contains objects other than tensors") from None
    except Exception as error:  # torch.load raises exceptions of many types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot read the checkpoint {path}: {reason}") from None
    return state
