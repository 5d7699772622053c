"""Divergence: noticed before anything of it is saved, told in `divergence.json`, and undone where the config asks."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gan.run.logging import read_lines
from gan.runtime.distributed import average, first_only
from gan.runtime.errors import Stopped
from gan.runtime.files import write_atomically

DIVERGENCES = "divergence.json"
STOPPED = "stopped"
EXIT_CODE = 3
TRIES = 3  # rollbacks in a run


class Diverged(Stopped):
    """A loss, a gradient or a weight is NaN or infinite. `diagnosis` says which, since when, and what was before."""

    def __init__(self, diagnosis: dict[str, Any], ending: str = ""):
        names = diagnosis["not_finite"]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        super().__init__(
            f"diverged: {names[0]}{more} is not finite at step {diagnosis['step']}; "
            f"the numbers of step {diagnosis['last_logged_step']} still were{ending}",
            EXIT_CODE,
        )
        self.diagnosis = diagnosis


class Run(Protocol):
    """What is looked at of a run, whatever it trains."""

    folder: Path
    step: int

    @property
    def networks(self) -> dict[str, tuple[nn.Module, torch.optim.Optimizer | None]]:
        """Networks by name, each with what trains it."""
        ...


def check_finite(run: Run, losses: dict[str, Tensor]) -> None:
    """Raise Diverged when a loss or anything of the networks and their optimizers is not finite; waits for the device.

    One pass over all of it, and one number for the host.
    """
    tensors = [tensor for _, tensor in _tensors(run)]
    # The largest absolute values: the usual norm of large weights can overflow.
    norms = torch._foreach_norm(tensors, math.inf)  # pyright: ignore[reportPrivateImportUsage]
    numbers = [*(norm.float() for norm in norms), *(loss.abs() for loss in losses.values())]
    largest = torch.stack(numbers).max()  # NaN passes through
    average([largest])  # so that all processes agree
    if not torch.isfinite(largest):
        raise Diverged(diagnose(run, losses))


def diagnose(run: Run, losses: dict[str, Tensor]) -> dict[str, Any]:
    """Return the names of what is not finite, losses and gradients first, and the last numbers that were logged."""
    lines = read_lines(run.folder / "metrics.jsonl")
    measured = [line for line in lines if any(tag.startswith("lipschitz/") for tag in line)]
    named = [*losses.items(), *_tensors(run)]
    names = [name for name, tensor in named if not torch.isfinite(tensor).all()]
    return {
        "step": run.step,
        "not_finite": names or ["a number of another process"],
        "last_logged_step": lines[-1]["step"] if lines else 0,
        "last_logged": lines[-1] if lines else {},
        "last_lipschitz_step": measured[-1]["step"] if measured else None,
        "last_lipschitz": {k: v for k, v in measured[-1].items() if k.startswith("lipschitz/")} if measured else {},
    }


def stopped(folder: Path, diverged: Diverged) -> Diverged:
    """Write the diagnosis to the run folder; return the error that ends the run and says so."""
    first_only(record_divergence)(folder, diverged.diagnosis | {"then": STOPPED})
    ending = f"; stopped, with the last good checkpoint kept: see {folder / DIVERGENCES}"
    return Diverged(diverged.diagnosis, ending)


def record_divergence(folder: Path, diagnosis: dict[str, Any]) -> None:
    """Add a diagnosis to those in the run folder."""
    text = json.dumps([*read_divergences(folder), diagnosis], indent=1)
    write_atomically(folder / DIVERGENCES, lambda file: file.write(f"{text}\n".encode()))


def read_divergences(folder: Path) -> list[dict[str, Any]]:
    """Return the diagnoses in a run folder, oldest first; none when there are none."""
    path = folder / DIVERGENCES
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def _tensors(run: Run) -> Iterator[tuple[str, Tensor]]:
    """Yield gradients, weights and buffers, and the optimizers' running means, by name."""
    for player, (network, _) in run.networks.items():
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                yield f"the gradient of {player}.{name}", parameter.grad
    for player, (network, _) in run.networks.items():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and tensor.numel():
                yield f"{player}.{name}", tensor
    for player, (network, optimizer) in run.networks.items():
        for name, parameter in network.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items() if optimizer is not None else ():
                if isinstance(value, Tensor) and value.dim():  # not the count of steps
                    yield f"{key} of {player}.{name}", value


def gradient_norm(network: nn.Module) -> float:
    """Return the norm of the gradient that the last backward pass left in the parameters."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
    return torch.stack(norms).norm().item()
