"""What this machine can do at most: matrix products, 3x3 convolutions and memory traffic, the best of several tries.

python benchmarks/ceilings.py [--threads 2] [--device cpu]
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from timing import seconds_of, title
from torch.nn import functional as F

SIDE = 4096  # of the matrices
FLOATS = 2**26  # of each array that is moved: far more than caches hold
TRIES = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    print(title(options.device, options.threads))
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        a, b = (torch.randn(SIDE, SIDE, device=device, dtype=dtype) for _ in range(2))
        seconds = best(partial(torch.matmul, a, b), device)
        print(f"{name} matrix product {SIDE} x {SIDE}: {2e-9 * SIDE**3 / seconds:.0f} GFLOP/s")
        x = torch.randn(64, 256, 32, 32, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        w = torch.randn(256, 256, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        operations = 2e-9 * x.numel() * 256 * 9
        seconds = best(partial(F.conv2d, x, w, padding=1), device)
        print(f"{name} convolution 256 -> 256, 3x3, batch 64, 32x32: {operations / seconds:.0f} GFLOP/s")
    a, b, target = (torch.randn(FLOATS, device=device) for _ in range(3))
    seconds = best(partial(target.copy_, a), device)
    print(f"copy, a = b, {a.nbytes / 1e6:.0f} MB each: {2e-9 * a.nbytes / seconds:.1f} GB/s read and written")
    seconds = best(partial(torch.add, a, b, alpha=3.0, out=target), device)
    print(f"triad, a = b + 3 c: {3e-9 * a.nbytes / seconds:.1f} GB/s read and written")


def best(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of several calls."""
    with torch.no_grad():
        return min(seconds_of(function, device) for _ in range(TRIES))


if __name__ == "__main__":
    main()
