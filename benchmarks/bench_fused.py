"""Time of a convolution, alone or next to resampling, forward and backward: plain kernels relative to fast kernels.

    python benchmarks/bench_fused.py                        # the layers and networks of SNGAN-ResNet 32, batch 64
    python benchmarks/bench_fused.py --bf16 --threads 1
    python benchmarks/bench_fused.py --only pool nearest --contiguous --repeats 15

Both alternate within each repeat, so that a change of the machine's load affects both. Each ratio is of two times of
the same repeat, and above 1 where the fast kernel is faster. Printed: the median ratio and its interquartile range.
"""

import argparse
from collections.abc import Callable
from statistics import median

import torch
from timing import format_ratio, measure_seconds, set_up, take_turns
from torch import Tensor, nn

from models import ImageShape
from models.kernels import Conv2d, conv_then_pool, plain_kernels, upsample_then_conv
from models.networks.resnet import ResNetDiscriminatorConfig, ResNetGeneratorConfig

LAYERS = {  # kind: (channels, side of the input)
    "alone": [(128, 16), (256, 8), (256, 16), (256, 32)],
    "pool": [(128, 32), (128, 16)],
    "nearest": [(256, 4), (256, 8), (256, 16)],
    "bilinear": [(256, 4), (256, 8), (256, 16)],
}


def compare(label: str, function: Callable[[], Tensor], options: argparse.Namespace) -> None:
    """Print one line with the times of `function` with plain and with fast kernels."""

    def fast() -> None:
        with torch.autocast(options.device, torch.bfloat16, enabled=options.bf16):
            y = function()
        y.backward(torch.ones_like(y))

    def plain() -> None:
        with plain_kernels():
            fast()

    device = torch.device(options.device)
    contestants = {"plain": lambda: measure_seconds(plain, device), "fast": lambda: measure_seconds(fast, device)}
    times = take_turns(contestants, options.repeats)
    plain_ms, fast_ms = (1000 * median(times[name]) for name in ("plain", "fast"))
    ratio = format_ratio(times["plain"], times["fast"])
    print(f"{label:34s} {ratio}  {plain_ms:7.1f} -> {fast_ms:7.1f} ms", flush=True)


def compare_layer(kind: str, channels: int, side: int, options: argparse.Namespace) -> None:
    layer = Conv2d(channels, channels, 3, padding=1).to(options.device, memory_format=options.memory_format)
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    x = torch.randn(options.batch, channels, side, side, device=options.device, dtype=dtype)
    x = x.contiguous(memory_format=options.memory_format).requires_grad_()
    functions = {
        "alone": lambda: layer(x),
        "pool": lambda: conv_then_pool(layer, x),
        "nearest": lambda: upsample_then_conv(layer, x, "nearest"),
        "bilinear": lambda: upsample_then_conv(layer, x, "bilinear"),
    }
    compare(f"{kind} {channels} x {side} x {side}", functions[kind], options)


def compare_network(label: str, network: nn.Module, x: Tensor, options: argparse.Namespace) -> None:
    network = network.to(options.device, memory_format=options.memory_format)
    x = x.to(options.device).requires_grad_()
    if x.dim() == 4:
        x = x.detach().contiguous(memory_format=options.memory_format).requires_grad_()
    compare(label, lambda: network(x), options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bf16", action="store_true", help="under autocast to bfloat16")
    parser.add_argument("--contiguous", action="store_true", help="instead of channels_last")
    parser.add_argument("--only", nargs="+", default=[*LAYERS, "D", "G"], choices=[*LAYERS, "D", "G"])
    options = parser.parse_args()
    options.memory_format = torch.contiguous_format if options.contiguous else torch.channels_last
    torch.manual_seed(0)
    form = f"{'bf16' if options.bf16 else 'fp32'}, {'contiguous' if options.contiguous else 'channels_last'}"
    print(f"{set_up(options.device, options.threads)}, batch {options.batch}, {form}")
    for kind, shapes in LAYERS.items():
        for channels, side in shapes if kind in options.only else []:
            compare_layer(kind, channels, side, options)
    image = ImageShape(3, 32)
    if "D" in options.only:
        x = torch.rand(options.batch, 3, 32, 32)
        compare_network("discriminator", ResNetDiscriminatorConfig().build(image), x, options)
    for mode in ("nearest", "bilinear") if "G" in options.only else []:
        generator = ResNetGeneratorConfig(upsample=mode).build(image)
        compare_network(
            f"generator, {mode}", generator, torch.randn(options.batch, generator.project.in_features), options
        )


if __name__ == "__main__":
    main()
