"""What this machine can do at most: matrix products, 3x3 convolutions and memory traffic, the best of several tries.

python benchmarks/ceilings.py [--threads 2] [--device cpu]
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from timing import synchronize, title
from torch.nn import functional as F

SIDE = 4096  # of the matrices
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
    source = torch.randn(2**27, device=device)
    target = torch.empty_like(source)
    seconds = best(partial(target.copy_, source), device)
    print(f"copy of {source.nbytes / 1e9:.2f} GB: {2e-9 * source.nbytes / seconds:.1f} GB/s read and written")


def best(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of several calls."""
    seconds = []
    with torch.no_grad():
        for _ in range(TRIES):
            synchronize(device)
            start = time.perf_counter()
            function()
            synchronize(device)
            seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    main()
