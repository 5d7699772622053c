"""Measure a normalized 3x3 convolution, forward and backward, for several widths, resolutions, batch sizes, strides.

    python benchmarks/bench_scaling.py [--repeats 5] [--threads 2] [--device cpu]

Prints a Markdown table. Each entry is the median ratio to the plain convolution of the same turn, with the
interquartile range. At stride 1, both forms of conv_norm are the same function.
"""

import argparse
from functools import partial

import torch
from timing import layer_seconds, ratios, set_up, take_turns
from torch import nn

from models.normalizations import build_normalization

NORMALIZATIONS = {
    "spectral": ("spectral", {}),
    "spectral_conv": ("spectral_conv", {}),
    "conv_norm paper": ("conv_norm", {"stride": "paper"}),
    "conv_norm strided": ("conv_norm", {"stride": "strided"}),
    "conv_norm strided, no affine": ("conv_norm", {"stride": "strided", "affine": False}),
}
SETTINGS = [  # channels, side, batch, stride; one of them changes at a time
    *((channels, 32, 32, 1) for channels in (32, 64, 128, 256)),
    *((128, side, 32, 1) for side in (8, 16, 64)),
    *((128, 32, batch, 1) for batch in (8, 128)),
    *((channels, 32, 32, 2) for channels in (64, 128, 256)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"{set_up(options.device, options.threads)}\n")
    print(f"| channels | side | batch | stride | plain (ms) | {' | '.join(NORMALIZATIONS)} |")
    print(f"|{' --: |' * (5 + len(NORMALIZATIONS))}")
    for setting in SETTINGS:
        print(row(*setting, options), flush=True)


def row(channels: int, side: int, batch: int, stride: int, options: argparse.Namespace) -> str:
    """Return the row of the table for one setting."""
    placed = {"device": torch.device(options.device), "memory_format": torch.channels_last}
    x = torch.randn(batch, channels, side, side).to(**placed)

    def layer() -> nn.Conv2d:
        return nn.Conv2d(channels, channels, 3, stride, padding=1)

    layers = {"plain": layer()} | {
        label: build_normalization(name, **keywords).normalize(layer())
        for label, (name, keywords) in NORMALIZATIONS.items()
    }
    layers = {label: layer.to(**placed) for label, layer in layers.items()}
    contestants = {label: partial(layer_seconds, layer, x) for label, layer in layers.items()}
    times = take_turns(contestants, options.repeats)
    entries = []
    for label in NORMALIZATIONS:
        low, median, high = ratios(times[label], times["plain"])
        entries.append(f"{median:.2f} [{low:.2f}, {high:.2f}]")
    plain = 1000 * torch.tensor(times["plain"]).median().item()
    return f"| {channels} | {side} | {batch} | {stride} | {plain:.1f} | {' | '.join(entries)} |"


if __name__ == "__main__":
    main()
