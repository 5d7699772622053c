"""Checkpoints: written whole or not at all, loaded without running code."""

from pathlib import Path
from typing import Any

import torch

from gan.errors import UserError
from gan.files import write_atomically


class Checkpoints:
    """The folder `checkpoints/` of a run: `step_00000500.pt` for the newest few, and `best.pt`."""

    def __init__(self, folder: Path, keep: int):
        self.folder = folder / "checkpoints"
        self.keep = keep

    def save(self, state: dict[str, Any]) -> None:
        """Write the state of `state["step"]` and remove the oldest beyond `keep`."""
        write_atomically(self.folder / f"step_{state['step']:08d}.pt", lambda file: torch.save(state, file))
        for path in self._numbered()[: -self.keep]:
            path.unlink()

    def save_best(self, state: dict[str, Any]) -> None:
        """Write the state as the best one so far."""
        write_atomically(self.folder / "best.pt", lambda file: torch.save(state, file))

    def load_newest(self, device: torch.device | str) -> dict[str, Any] | None:
        """Return the newest state on `device`, or None when there is none."""
        paths = self._numbered()
        return load(paths[-1], device) if paths else None

    def load_best(self, device: torch.device) -> dict[str, Any] | None:
        """Return the best state on `device`, or None when there is none."""
        path = self.folder / "best.pt"
        return load(path, device) if path.exists() else None

    def _numbered(self) -> list[Path]:
        return sorted(self.folder.glob("step_*.pt"))


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the state in a checkpoint file; UserError when it cannot be read."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot read the checkpoint {path}: {reason}") from None
