"""Divergence: noticed before anything of it is saved, told in `divergence.json`, and undone where the config asks."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan.checkpoint import Checkpoints
from gan.errors import Stopped
from gan.experiment import Experiment
from gan.files import write_atomically
from gan.logging import read_lines

DIVERGENCES = "divergence.json"
STOPPED = "stopped"
EXIT_CODE = 3
TRIES = 3  # rollbacks in a run


class Diverged(Stopped):
    """A loss, a gradient or a weight is NaN or infinite. `diagnosis` says which, since when, and what was before."""

    def __init__(self, diagnosis: dict[str, Any]):
        names = diagnosis["not_finite"]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        super().__init__(
            f"diverged: {names[0]}{more} is not finite at step {diagnosis['step']}; "
            f"the numbers of step {diagnosis['last_logged_step']} still were",
            EXIT_CODE,
        )
        self.diagnosis = diagnosis


def check_finite(run: Experiment, losses: dict[str, Tensor]) -> None:
    """Raise Diverged when a loss or anything of the networks and their optimizers is not finite; waits for the device.

    One pass over all of it, and one number for the host.
    """
    tensors = list(dict(_tensors(run)).values())
    # The largest absolute values: the usual norm of large weights can overflow.
    largest = torch.stack([*torch._foreach_norm(tensors, math.inf), *(loss.abs() for loss in losses.values())])
    if not torch.isfinite(largest.max()):  # NaN passes through max
        raise Diverged(diagnose(run, losses))


def diagnose(run: Experiment, losses: dict[str, Tensor]) -> dict[str, Any]:
    """Return the names of what is not finite, losses and gradients first, and the last numbers that were logged."""
    lines = read_lines(run.folder / "metrics.jsonl")
    measured = [line for line in lines if any(tag.startswith("lipschitz/") for tag in line)]
    named = [*losses.items(), *_tensors(run)]
    return {
        "step": run.step,
        "retries": run.retries,
        "not_finite": [name for name, tensor in named if not torch.isfinite(tensor).all()],
        "last_logged_step": lines[-1]["step"] if lines else 0,
        "last_logged": lines[-1] if lines else {},
        "last_lipschitz_step": measured[-1]["step"] if measured else None,
        "last_lipschitz": {k: v for k, v in measured[-1].items() if k.startswith("lipschitz/")} if measured else {},
    }


def roll_back(run: Experiment, checkpoints: Checkpoints, diverged: Diverged) -> None:
    """Go back to the newest checkpoint and take other random numbers from there on, or raise `diverged` again: where
    the config asks for no rollback, and after TRIES of them.
    """
    tries = run.retries + 1
    may = run.config.train.on_nan == "rollback" and tries <= TRIES
    state = checkpoints.load_newest(run.device) if may else None
    path = run.folder / DIVERGENCES
    if state is None:
        tell(path, diverged.diagnosis | {"then": STOPPED})
        diverged.args = (f"{diverged}; stopped, with the last good checkpoint kept: see {path}",)
        raise diverged
    run.load_state_dict(state)
    run.retries = tries
    checkpoints.save(run.state_dict())  # so that a resumed run does not try the same once more
    tell(path, diverged.diagnosis | {"then": f"rolled back to step {run.step}"})
    print(f"{diverged}; rolled back to step {run.step}, try {tries} of {TRIES}: see {path}", flush=True)


def tell(path: Path, diagnosis: dict[str, Any]) -> None:
    """Add a diagnosis to those in the file."""
    text = json.dumps([*read_divergences(path), diagnosis], indent=1)
    write_atomically(path, lambda file: file.write(f"{text}\n".encode()))


def read_divergences(path: Path) -> list[dict[str, Any]]:
    """Return the diagnoses in a file, oldest first; none when there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def _tensors(run: Experiment) -> Iterator[tuple[str, Tensor]]:
    """Yield gradients, weights and buffers, their average, and the optimizers' running means, by name."""
    players = {"D": (run.D, run.optimizer_D), "G": (run.G, run.optimizer_G)}
    for player, (network, _) in players.items():
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                yield f"the gradient of {player}.{name}", parameter.grad
    for player, network in {"D": run.D, "G": run.G, "G_ema": run.ema.network}.items():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and tensor.numel():
                yield f"{player}.{name}", tensor
    for player, (network, optimizer) in players.items():
        for name, parameter in network.named_parameters():
            for key, tensor in optimizer.state[parameter].items() if parameter in optimizer.state else ():
                if tensor.dim():  # not the count of steps
                    yield f"{key} of {player}.{name}", tensor
