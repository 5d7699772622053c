"""Timing of contestants that alternate, so that a change of the machine's load affects all of them."""

import os
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from gan.runtime.allocator import keep_freed_memory
from gan.runtime.provenance import hardware


def set_up(device: str, threads: int, keep_memory: bool = True) -> str:
    """Set the number of threads and configure the allocator as in a run; return versions and hardware as one line."""
    torch.set_num_threads(threads)
    if keep_memory:
        keep_freed_memory()
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    return f"torch {torch.__version__}, {device}, {threads} threads, {hardware()}, {load} at the start"


def take_turns(contestants: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Call each contestant once per turn, for one warm-up turn and `repeats` turns; return the seconds they report."""
    times: dict[str, list[float]] = {label: [] for label in contestants}
    for turn in range(repeats + 1):
        for label, contestant in contestants.items():
            seconds = contestant()
            if turn > 0:
                times[label].append(seconds)
    return times


def ratios(times: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, median, and upper quartile of times / reference, computed turn by turn."""
    quartiles = torch.tensor([0.25, 0.5, 0.75])
    low, median, high = (torch.tensor(times) / torch.tensor(reference)).quantile(quartiles).tolist()
    return low, median, high


def format_ratio(times: Sequence[float], reference: Sequence[float]) -> str:
    """Return the median of times / reference and its interquartile range as text."""
    low, median, high = ratios(times, reference)
    return f"{median:5.2f}x [{low:.2f}, {high:.2f}]"


def layer_seconds(layer: nn.Module, x: torch.Tensor) -> float:
    """Return the seconds of a forward and backward pass of a layer, including the gradients of input and parameters."""
    layer.zero_grad()
    x = x.detach().requires_grad_(True)

    def run_passes() -> None:
        y = layer(x)
        y.backward(torch.ones_like(y))

    return measure_seconds(run_passes, x.device)


def measure_seconds(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a call, including the work that it queues on the device."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
