"""Measure the peak performance of this machine: matrix products, 3x3 convolutions, and memory bandwidth.

    python benchmarks/ceilings.py [--threads 2] [--device cpu]

Prints the best of several tries.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from timing import measure_seconds, set_up
from torch.nn import functional as F

SIZE = 4096  # rows and columns of the matrices
NUM_FLOATS = 2**26  # elements of each array: far more than caches hold
TRIES = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    print(set_up(options.device, options.threads))
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        a, b = (torch.randn(SIZE, SIZE, device=device, dtype=dtype) for _ in range(2))
        seconds = measure_best(partial(torch.matmul, a, b), device)
        print(f"{name} matrix product {SIZE} x {SIZE}: {2e-9 * SIZE**3 / seconds:.0f} GFLOP/s")
        x = torch.randn(64, 256, 32, 32, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        w = torch.randn(256, 256, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        operations = 2e-9 * x.numel() * 256 * 9
        seconds = measure_best(partial(F.conv2d, x, w, padding=1), device)
        print(f"{name} convolution 256 -> 256, 3x3, batch 64, 32x32: {operations / seconds:.0f} GFLOP/s")
    a, b, target = (torch.randn(NUM_FLOATS, device=device) for _ in range(3))
    seconds = measure_best(partial(target.copy_, a), device)
    print(f"copy, a = b, {a.nbytes / 1e6:.0f} MB each: {2e-9 * a.nbytes / seconds:.1f} GB/s read and written")
    seconds = measure_best(partial(torch.add, a, b, alpha=3.0, out=target), device)
    print(f"triad, a = b + 3 c: {3e-9 * a.nbytes / seconds:.1f} GB/s read and written")


def measure_best(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of several calls."""
    with torch.no_grad():
        return min(measure_seconds(function, device) for _ in range(TRIES))


if __name__ == "__main__":
    main()
