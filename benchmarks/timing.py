"""Contestants that take turns, and ratios of times of the same turn, so that a change of load hits all of them."""

import os
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from gan.runtime.allocator import keep_freed_memory
from gan.runtime.provenance import hardware


def title(device: str, threads: int, keep_memory: bool = True) -> str:
    """Return versions and hardware on one line; set the number of threads, and the allocator as a run does."""
    torch.set_num_threads(threads)
    if keep_memory:
        keep_freed_memory()
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    return f"torch {torch.__version__}, {device}, {threads} threads, {hardware()}, {load} at the start"


def take_turns(contestants: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Call each contestant once in each of `repeats` turns, after one to warm up; return the seconds that they say."""
    times: dict[str, list[float]] = {label: [] for label in contestants}
    for turn in range(repeats + 1):
        for label, contestant in contestants.items():
            seconds = contestant()
            if turn > 0:
                times[label].append(seconds)
    return times


def ratios(times: Sequence[float], of: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of times / of, turn by turn, and the range of the middle half: (low, median, high)."""
    low, median, high = (torch.tensor(times) / torch.tensor(of)).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    return low, median, high


def show(times: Sequence[float], of: Sequence[float]) -> str:
    """Return the ratio with its range."""
    low, median, high = ratios(times, of)
    return f"{median:5.2f}x [{low:.2f}, {high:.2f}]"


def layer_seconds(layer: nn.Module, x: torch.Tensor) -> float:
    """Return the seconds of a layer's forward and backward pass, gradients of input and parameters included."""
    layer.zero_grad()
    x = x.detach().requires_grad_(True)

    def passes() -> None:
        y = layer(x)
        y.backward(torch.ones_like(y))

    return seconds_of(passes, x.device)


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a call and of what it asked of the device."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
