"""Time of a convolution, next to resampling or alone, forward + backward: the plain form relative to the rewrite.

    python benchmarks/bench_fused.py                        # the layers and networks of SNGAN-ResNet 32, batch 64
    python benchmarks/bench_fused.py --bf16 --threads 1
    python benchmarks/bench_fused.py --only pool nearest --contiguous --repeats 15

Both forms take turns within each repeat, so that a change of the machine's load hits both; each ratio is of times of
the same repeat, above 1 where the rewrite is faster. Printed: the median ratio and the range of the middle half.
"""

import argparse
from collections.abc import Callable
from statistics import median

import torch
from timing import seconds_of, show, take_turns, title
from torch import Tensor, nn
from torch.nn import functional as F

from models import ImageShape
from models.kernels.fused import conv_then_pool, convolve, upsample, upsample_then_conv
from models.networks import resnet
from models.networks.resnet import ResNetDiscriminatorConfig, ResNetGeneratorConfig

LAYERS = {  # kind: (channels, side of the input)
    "alone": [(128, 16), (256, 8), (256, 16), (256, 32)],
    "pool": [(128, 32), (128, 16)],
    "nearest": [(256, 4), (256, 8), (256, 16)],
    "bilinear": [(256, 4), (256, 8), (256, 16)],
}


def plain(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x)


def plain_pool(layer: nn.Module, x: Tensor) -> Tensor:
    return F.avg_pool2d(layer(x), 2)


def plain_up(layer: nn.Module, x: Tensor, mode: str = "nearest") -> Tensor:
    return layer(upsample(x, mode))


def compare(label: str, plain: Callable[[], Tensor], fused: Callable[[], Tensor], options: argparse.Namespace) -> None:
    """Print one line."""

    def passes(function: Callable[[], Tensor]) -> None:
        with torch.autocast(options.device, torch.bfloat16, enabled=options.bf16):
            y = function()
        y.backward(torch.ones_like(y))

    device = torch.device(options.device)
    contestants = {"plain": lambda: seconds_of(lambda: passes(plain), device)}
    contestants["fused"] = lambda: seconds_of(lambda: passes(fused), device)
    times = take_turns(contestants, options.repeats)
    plain_ms, fused_ms = (1000 * median(times[name]) for name in ("plain", "fused"))
    print(f"{label:34s} {show(times['plain'], times['fused'])}  {plain_ms:7.1f} -> {fused_ms:7.1f} ms", flush=True)


def compare_layer(kind: str, channels: int, side: int, options: argparse.Namespace) -> None:
    layer = nn.Conv2d(channels, channels, 3, padding=1).to(options.device, memory_format=options.memory_format)
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    x = torch.randn(options.batch, channels, side, side, device=options.device, dtype=dtype)
    x = x.contiguous(memory_format=options.memory_format).requires_grad_()
    if kind == "alone":
        forms = [lambda: layer(x), lambda: convolve(layer, x)]
    elif kind == "pool":
        forms = [lambda: plain_pool(layer, x), lambda: conv_then_pool(layer, x)]
    else:
        forms = [lambda: plain_up(layer, x, kind), lambda: upsample_then_conv(layer, x, kind)]
    compare(f"{kind} {channels} x {side} x {side}", *forms, options)


def compare_network(label: str, network: nn.Module, x: Tensor, options: argparse.Namespace) -> None:
    network = network.to(options.device, memory_format=options.memory_format)
    x = x.to(options.device).requires_grad_()
    if x.dim() == 4:
        x = x.detach().contiguous(memory_format=options.memory_format).requires_grad_()
    rewrites = resnet.convolve, resnet.conv_then_pool, resnet.upsample_then_conv

    def plain_network() -> Tensor:
        resnet.convolve, resnet.conv_then_pool, resnet.upsample_then_conv = plain, plain_pool, plain_up
        try:
            return network(x)
        finally:
            resnet.convolve, resnet.conv_then_pool, resnet.upsample_then_conv = rewrites

    compare(label, plain_network, lambda: network(x), options)


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
    print(f"{title(options.device, options.threads)}, batch {options.batch}, {form}")
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
