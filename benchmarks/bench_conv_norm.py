"""Time of a normalized 3x3 convolution, forward + backward, relative to the bare one and to the paper's algorithm.

    python benchmarks/bench_conv_norm.py                     # C = 128 and 256 at 32x32, batch 64
    python benchmarks/bench_conv_norm.py --batch 8 --repeats 3

The contestants take turns within each repeat, so that a change of the machine's load hits all of them; each ratio is
of times of the same repeat. Printed: the median ratio and the range of the middle half of them.
"""

import argparse
from functools import partial

import torch
import torch.nn.functional as F
from timing import format_ratio, layer_seconds, ratios, set_up, take_turns
from torch import Tensor, nn

from models.normalizations import build_normalization

CONTESTANTS = {
    # label: (stride, normalization, options, largest ratio we want)
    "conv_norm paper, affine": (1, "conv_norm", {"stride": "paper"}, 2.5),
    "conv_norm strided, no affine": (1, "conv_norm", {"stride": "strided", "affine": False}, 1.6),
    "conv_norm paper, affine (s=2)": (2, "conv_norm", {"stride": "paper"}, None),
    "conv_norm strided, affine (s=2)": (2, "conv_norm", {"stride": "strided"}, None),
    "conv_norm strided, no affine (s=2)": (2, "conv_norm", {"stride": "strided", "affine": False}, 1.6),
    "spectral": (1, "spectral", {}, None),
    "spectral_conv": (1, "spectral_conv", {}, None),
    "spectral (s=2)": (2, "spectral", {}, None),
    "spectral_conv (s=2)": (2, "spectral_conv", {}, None),
}
OURS = {1: ["conv_norm paper, affine"], 2: ["conv_norm paper, affine (s=2)", "conv_norm strided, affine (s=2)"]}
FASTER = 3.0  # bar: how many times faster than the paper's algorithm as written our layer is


class Transcription(nn.Module):
    """ConvNorm as the paper writes it: the FFT of all kernels at every pass, no saving anywhere."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = conv
        channels, k = conv.out_channels, conv.kernel_size[0]
        self.affine = nn.Conv2d(channels, channels, k, padding=k // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I, H, W) to (B, O, H, W)."""
        k, p, s = self.conv.kernel_size[0], self.conv.padding[0], self.conv.stride[0]
        y = F.conv2d(x, self.conv.weight, padding=k - 1)
        grid = y.shape[2:]
        v = torch.fft.rfft2(self.conv.weight.detach(), s=grid).abs().square().sum(1).rsqrt()
        y = torch.fft.irfft2(torch.fft.rfft2(y) * v, s=grid)
        edge = k - 1 - p
        return self.affine(y[..., edge : grid[0] - edge : s, edge : grid[1] - edge : s])


def convolution(channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, padding=1)


def compare(channels: int, options: argparse.Namespace) -> None:
    """Print one line for each contestant."""
    device = torch.device(options.device)
    memory_format = torch.channels_last if options.channels_last else torch.contiguous_format
    x = torch.randn(options.batch, channels, 32, 32, device=device).to(memory_format=memory_format)
    layers: dict[str, nn.Module] = {f"as written s={s}": Transcription(convolution(channels, s)) for s in OURS}
    for label, (stride, name, keywords, _) in CONTESTANTS.items():
        layers[f"bare s={stride}"] = convolution(channels, stride)
        layers[label] = build_normalization(name, **keywords).normalize(convolution(channels, stride))
    layers = {label: layer.to(device, memory_format=memory_format) for label, layer in layers.items()}
    contestants = {label: partial(layer_seconds, layer, x) for label, layer in layers.items()}
    times = take_turns(contestants, options.repeats)
    bare = torch.tensor(times["bare s=1"]).median().item()
    print(f"C={channels}, bare convolution {1000 * bare:.1f} ms")
    for label, (stride, _, _, bar) in CONTESTANTS.items():
        base = times[f"bare s={stride}"]
        met = "" if bar is None else f"  bar {bar}x: {'met' if ratios(times[label], base)[1] <= bar else 'MISSED'}"
        print(f"    {label:36s} {format_ratio(times[label], base)} of the bare one{met}", flush=True)
    for stride, ours in OURS.items():
        written, base = times[f"as written s={stride}"], times[f"bare s={stride}"]
        print(f"    {f'the paper as written (s={stride})':36s} {format_ratio(written, base)} of the bare one")
        for label in ours:
            met = "met" if ratios(written, times[label])[1] >= FASTER else "MISSED"
            print(f"    {label} is {format_ratio(written, times[label])} faster than that; bar {FASTER}x: {met}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--default-allocator", action="store_true", help="glibc's, in place of a run's setting of it")
    options = parser.parse_args()
    torch.manual_seed(0)
    about = set_up(options.device, options.threads, keep_memory=not options.default_allocator)
    print(f"{about}, batch {options.batch}, 32x32")
    for channels in options.channels:
        compare(channels, options)


if __name__ == "__main__":
    main()
