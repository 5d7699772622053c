"""Divergence: NaN or infinite values are found before a step is logged or saved, and described in `divergence.json`."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from gan.run.lock import check_lock
from gan.run.logging import read_metrics
from gan.runtime.damaged import read_json
from gan.runtime.distributed import all_reduce_mean, call_on_rank_zero
from gan.runtime.errors import Stopped
from gan.runtime.files import write_json

DIVERGENCES = "divergence.json"
STOPPED = "stopped"
EXIT_CODE = 3

Networks = Mapping[str, tuple[nn.Module, torch.optim.Optimizer | None]]
"""Networks by name, each with the optimizer that trains it"""


class Diverged(Stopped):
    """Training stopped because a loss, gradient, weight or optimizer state is NaN or infinite."""


def find_nonfinite(networks: Networks, losses: Mapping[str, Tensor], precision: str = "fp32") -> list[str]:
    """Return the names of all losses, gradients, weights, buffers and optimizer states that are NaN or infinite.

    In fp16, gradients may overflow: such a step is skipped, and is no divergence. Synchronizes with the device once.
    Every process returns a non-empty list if one of them has such a value.
    """
    named_tensors = [*(() if precision == "fp16" else _named_gradients(networks)), *_named_states(networks)]
    tensors = [tensor for _, tensor in named_tensors]
    # Infinity norms: the 2-norm of large but finite weights can overflow.
    norms = torch._foreach_norm(tensors, math.inf)  # pyright: ignore[reportPrivateImportUsage]
    numbers = [*(norm.float() for norm in norms), *(loss.abs() for loss in losses.values())]
    largest = torch.stack(numbers).max()  # NaN propagates
    all_reduce_mean([largest])
    if torch.isfinite(largest):
        return []
    named = [*losses.items(), *named_tensors]
    names = [name for name, tensor in named if not torch.isfinite(tensor).all()]
    return names or ["a value in another process"]


def record_divergence(folder: Path, step: int, nonfinite: list[str], action: str) -> str:
    """Add an entry to `divergence.json`, and return what happened as the first part of a message.

    The entry has the step, the names of the non-finite values, the last logged numbers and Lipschitz estimates, and
    the `action` taken. All processes must call this; rank 0 reads and writes the files.
    """
    return call_on_rank_zero(lambda: _record(folder, step, nonfinite, action))


def _record(folder: Path, step: int, nonfinite: list[str], action: str) -> str:
    lines = read_metrics(folder)
    estimates = [line for line in lines if any(tag.startswith("lipschitz/") for tag in line)]
    entry = {
        "step": step,
        "not_finite": nonfinite,
        "last_logged_step": lines[-1]["step"] if lines else 0,
        "last_logged": lines[-1] if lines else {},
        "last_lipschitz_step": estimates[-1]["step"] if estimates else None,
        "last_lipschitz": {k: v for k, v in estimates[-1].items() if k.startswith("lipschitz/")} if estimates else {},
        "then": action,
    }
    check_lock(folder)
    write_json(folder / DIVERGENCES, [*read_divergences(folder), entry])
    more = f" and {len(nonfinite) - 1} more" if len(nonfinite) > 1 else ""
    logged = f"the numbers logged at step {lines[-1]['step']} were finite" if lines else "nothing was logged before"
    return f"diverged at step {step}: not finite: {nonfinite[0]}{more}; {logged}"


def stop_diverged(folder: Path, step: int, nonfinite: list[str]) -> NoReturn:
    """Record the divergence in the run folder, and raise Diverged."""
    message = record_divergence(folder, step, nonfinite, STOPPED)
    raise Diverged(f"{message}; stopped, with the last good checkpoint kept: see {folder / DIVERGENCES}", EXIT_CODE)


def read_divergences(folder: Path) -> list[dict[str, Any]]:
    """Return the divergences recorded in a run folder, oldest first. None, with a warning, if the file is damaged."""
    return read_json(folder / DIVERGENCES, _are_entries, [])


def _are_entries(value: Any) -> bool:
    """Return whether a value has the form of the contents of `divergence.json`."""
    return isinstance(value, list) and all(
        isinstance(entry, dict)
        and type(entry.get("step")) is int
        and isinstance(entry.get("then"), str)
        and isinstance(entry.get("not_finite"), list)
        and len(entry["not_finite"]) > 0
        and all(isinstance(name, str) for name in entry["not_finite"])
        for entry in value
    )


def gradient_norm(network: nn.Module) -> float:
    """Return the norm of the gradient that the last backward pass left in the parameters."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
    return torch.stack(norms).norm().item()


def _named_gradients(networks: Networks) -> Iterator[tuple[str, Tensor]]:
    for name, (network, _) in networks.items():
        for path, parameter in network.named_parameters():
            if parameter.grad is not None:
                yield f"the gradient of {name}.{path}", parameter.grad


def _named_states(networks: Networks) -> Iterator[tuple[str, Tensor]]:
    """Yield weights and buffers, then optimizer states, by name."""
    for name, (network, _) in networks.items():
        for path, tensor in network.state_dict().items():
            if tensor.is_floating_point() and tensor.numel():
                yield f"{name}.{path}", tensor
    for name, (network, optimizer) in networks.items():
        for path, parameter in network.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items() if optimizer is not None else ():
                if isinstance(value, Tensor) and value.dim():  # not Adam's step count
                    yield f"{key} of {name}.{path}", value
