"""Time of a normalized 3x3 convolution, forward + backward, relative to the bare one.

    python benchmarks/bench_conv_norm.py                     # C = 128 and 256 at 32x32, batch 64
    python benchmarks/bench_conv_norm.py --batch 8 --repeats 3

The contestants take turns within each repeat, so that a change of the machine's load hits all of them; each ratio is
of times of the same repeat. Printed: the median ratio and the range of the middle half of them.
"""

import argparse
import time

import torch
from torch import nn

from models.normalizations import build_normalization

CONTESTANTS = {
    # label: (stride, normalization, options, largest ratio we want)
    "conv_norm paper, affine": (1, "conv_norm", {"stride": "paper"}, 2.5),
    "conv_norm strided, no affine": (1, "conv_norm", {"stride": "strided", "affine": False}, 1.6),
    "conv_norm strided, no affine (s=2)": (2, "conv_norm", {"stride": "strided", "affine": False}, 1.6),
    "spectral": (1, "spectral", {}, None),
    "spectral_conv": (1, "spectral_conv", {}, None),
    "spectral (s=2)": (2, "spectral", {}, None),
    "spectral_conv (s=2)": (2, "spectral_conv", {}, None),
}


def convolution(channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, padding=1)


def seconds(layer: nn.Module, x: torch.Tensor) -> float:
    """Return the seconds of one forward and backward pass, gradients of input and parameters included."""
    layer.zero_grad()
    x = x.detach().requires_grad_(True)
    synchronize(x.device)
    start = time.perf_counter()
    y = layer(x)
    y.backward(torch.ones_like(y))
    synchronize(x.device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compare(channels: int, options: argparse.Namespace) -> None:
    """Print one line for each contestant."""
    device, memory_format = torch.device(options.device), torch.preserve_format
    if options.channels_last:
        memory_format = torch.channels_last
    x = torch.randn(options.batch, channels, 32, 32, device=device).to(memory_format=memory_format)
    layers = {}
    for label, (stride, name, keywords, _) in CONTESTANTS.items():
        bare = convolution(channels, stride)
        layers[f"bare s={stride}"] = bare
        layers[label] = build_normalization(name, **keywords).normalize(convolution(channels, stride))
    layers = {label: layer.to(device, memory_format=memory_format) for label, layer in layers.items()}
    for layer in layers.values():
        seconds(layer, x)
    times = {label: [] for label in layers}
    for _ in range(options.repeats):
        for label, layer in layers.items():
            times[label].append(seconds(layer, x))
    for label, (stride, _, _, bar) in CONTESTANTS.items():
        ratios = torch.tensor(times[label]) / torch.tensor(times[f"bare s={stride}"])
        low, median, high = ratios.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
        bare_ms = 1000 * torch.tensor(times[f"bare s={stride}"]).median().item()
        verdict = "" if bar is None else f"  bar {bar}x: {'met' if median <= bar else 'MISSED'}"
        print(
            f"C={channels:4d} {label:36s} {median:5.2f}x [{low:.2f}, {high:.2f}] of {bare_ms:7.1f} ms{verdict}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--channels-last", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} threads, batch {options.batch}, 32x32")
    for channels in options.channels:
        compare(channels, options)


if __name__ == "__main__":
    main()
