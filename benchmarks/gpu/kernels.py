"""Stages of the GPU check that time single operations: what the device can do, and which rewrites are faster."""

import statistics
from collections.abc import Callable
from functools import partial
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu.task import Contestant, Task, capture
from benchmarks.timing import ratios
from gan.runtime.precision import training_precision
from models.kernels import fourier, fused, switch
from models.kernels.circular_filter import Window, circular_filter

LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHAPES: dict[tuple[str, switch.Fusion], list[tuple[int, int]]] = {
    # mode, and what is blurred: (channels, side of the input) of the layers of SNGAN-ResNet 32
    ("average", "kernel"): [(128, 32), (128, 16)],
    ("nearest", "kernel"): [(256, 4), (256, 8), (256, 16)],
    ("nearest", "map"): [(256, 4), (256, 8), (256, 16)],
    ("bilinear", "map"): [(256, 16)],
}


def rewrites(task: Task) -> None:
    """Time convolutions fused with resampling against the plain form, forward and backward, in turns.

    Both are captured as CUDA graphs, as in a training step. A form should be enabled where the times of all layers
    together are shorter in both formats.
    """
    for (mode, fusion), shapes in SHAPES.items():
        faster = {}
        for name, dtype in DTYPES.items():
            totals = [0.0, 0.0]
            for channels, side in shapes:
                label = f"{mode}, {fusion}, {channels} x {side} x {side}, {name}"
                with task.attempt(label):
                    plain, rewritten, error = _measure_rewrite(task, mode, fusion, channels, side, dtype)
                    totals[0] += statistics.median(plain)
                    totals[1] += statistics.median(rewritten)
                    low, middle, high = ratios(plain, rewritten)
                    speed = f"{middle:.2f}x [{low:.2f}, {high:.2f}]"
                    numbers = {"plain, µs": 1e6 * statistics.median(plain)}
                    numbers |= {"fused, µs": 1e6 * statistics.median(rewritten)}
                    task.note(label, **numbers, **{"speed of the fused form": speed, "relative error": error})
            if totals[1] > 0:
                faster[name] = totals[0] / totals[1]
        label = f"{mode}, {fusion}"
        with task.attempt(label):
            enabled = switch.FUSED_RESAMPLING[task.device.type].get(mode) == fusion
            speeds = {f"speed, {name}": value for name, value in faster.items()}
            better = len(faster) == len(DTYPES) and min(faster.values()) > 1
            task.note(label, **speeds, **{"faster in both": better, "enabled now": enabled})


def _measure_rewrite(
    task: Task, mode: str, fusion: switch.Fusion, channels: int, side: int, dtype: torch.dtype
) -> tuple[list[float], list[float], float]:
    """Return the seconds of the plain and the fused form of each turn, and the largest relative error of the latter."""
    batch, channels = (2, 8) if task.tiny else (128 if mode == "average" else 64, channels)
    side_out = side // 2 if mode == "average" else 2 * side
    random = torch.Generator(task.device).manual_seed(0)
    shapes = [(batch, channels, side, side), (channels, channels, 3, 3), (channels,)]
    shapes.append((batch, channels, side_out, side_out))
    *inputs, gradient = (
        torch.randn(shape, device=task.device, generator=random).to(dtype).contiguous(memory_format=_layout(shape))
        for shape in shapes
    )
    inputs = [tensor.requires_grad_() for tensor in inputs]

    def run(form: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        y = form(*inputs)
        return (y.detach(), *torch.autograd.grad(y, inputs, gradient))

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if mode == "average":
            return F.avg_pool2d(F.conv2d(x, weight, bias, padding=1), 2)
        return F.conv2d(F.interpolate(x, scale_factor=2, mode=mode), weight, bias, padding=1)

    def rewritten(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if mode == "average":
            return fused.conv_pool(x, weight, bias, (1, 1), 1, fusion)
        return fused.upsample_conv(x, weight, bias, mode, fusion)

    pairs = zip(run(plain), run(rewritten), strict=True)
    error = max(((b.float() - a.float()).norm() / a.float().norm()).item() for a, b in pairs)
    contestants = [Contestant(capture(partial(run, form), task.device)) for form in (plain, rewritten)]
    for contestant in contestants:
        contestant.warm_up(task, 0.02)
    turns = [[contestant.measure(task) for contestant in contestants] for _ in range(2 if task.tiny else 7)]
    return [turn[0] for turn in turns], [turn[1] for turn in turns], error


def _layout(shape: tuple[int, ...]) -> torch.memory_format:
    return torch.channels_last if len(shape) == 4 else torch.contiguous_format


def ceilings(task: Task) -> None:
    """Write what the device can do: copies, matrix products, and convolutions."""
    with task.attempt("copy"):
        source = torch.randn(2**18 if task.tiny else 2**29, device=task.device)
        target = torch.empty_like(source)
        seconds = _seconds(task, partial(target.copy_, source))
        task.note("copy", **{"TB/s read and written": 2e-12 * source.nbytes / seconds, "ms": 1000 * seconds})
        del source, target
    size = 256 if task.tiny else 8192
    for name, dtype in DTYPES.items():
        for tf32 in (False, True) if name == "fp32" and task.on_cuda else (False,):
            label = f"matrix product, {'tf32' if tf32 else name}"
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            with task.attempt(label):
                a = torch.randn(size, size, device=task.device, dtype=dtype)
                seconds = _seconds(task, lambda a=a: a @ a)
                task.note(label, **{"TFLOP/s": 2e-12 * size**3 / seconds, "ms": 1000 * seconds})
    torch.set_float32_matmul_precision("highest")
    _measure_convolutions(task)


def _measure_convolutions(task: Task) -> None:
    batch = 2 if task.tiny else 128
    for channels in (8,) if task.tiny else (128, 256):
        for name, dtype in DTYPES.items():
            for tf32 in (False, True) if name == "fp32" and task.on_cuda else (False,):
                for layout, memory_format in LAYOUTS.items():
                    for groups in (1, channels):
                        kind = "depthwise convolution" if groups > 1 else "convolution"
                        label = f"{kind}, {channels} x 32 x 32, {'tf32' if tf32 else name}, {layout}"
                        with task.attempt(label), training_precision("tf32" if tf32 else "fp32"):
                            shape = (batch, channels, 32, 32), (channels, channels // groups, 3, 3)
                            x, weight = (
                                torch.randn(s, device=task.device, dtype=dtype)
                                .contiguous(memory_format=memory_format)
                                .requires_grad_()
                                for s in shape
                            )

                            def run(x=x, weight=weight, groups=groups) -> None:
                                y = F.conv2d(x, weight, padding=1, groups=groups)
                                torch.autograd.grad(y, (x, weight), y.detach())

                            seconds = _seconds(task, run)
                            operations = 3e-12 * 2 * 9 * x.numel() * (channels // groups)  # output, 2 gradients
                            task.note(label, **{"TFLOP/s": operations / seconds, "ms": 1000 * seconds})


def filters(task: Task) -> None:
    """Time ConvNorm's circular filter, forward and backward, by the FFT and by matrix products."""
    batch, channels = (2, 8) if task.tiny else (128, 128)
    for side in (34, 18, 10):
        window = (Window(1, side - 2, 1), Window(1, side - 2, 1))
        kernel = torch.randn(channels, channels, 3, 3, device=task.device)
        v = fourier.preconditioner(kernel, (side, side), 1e-6).float()
        for name, dtype in DTYPES.items():
            y = torch.randn(batch, channels, side, side, device=task.device, dtype=dtype)
            y = y.contiguous(memory_format=torch.channels_last).requires_grad_()
            reference = None
            for way in ("FFT", "by axes", "by one matrix"):
                label = f"filter, {channels} x {side} x {side}, {name}, {way}"

                def run(y=y, v=v, window=window) -> Tensor:
                    filtered = circular_filter(y, v, window)
                    torch.autograd.grad(filtered, y, filtered.detach())
                    return filtered.detach()

                with (
                    task.attempt(label),
                    mock.patch.object(switch, "filter_by_matrix_is_faster", lambda y, w=way: w == "by one matrix"),
                    mock.patch.object(switch, "filter_by_axes_is_faster", lambda y, w=way: w == "by axes"),
                    mock.patch.object(switch, "dense_filter_is_faster", return_value=False),
                ):
                    filtered = run().float()
                    reference = filtered if reference is None else reference
                    error = ((filtered - reference).norm() / reference.norm()).item()
                    seconds = _seconds(task, capture(run, task.device))
                    # Forward and backward read and write the map once each.
                    rate = 4e-12 * y.nbytes / seconds
                    numbers = {"ms": 1000 * seconds, "TB/s if each map is read and written once": rate}
                    task.note(label, **numbers, **{"difference from the FFT": error})


def _seconds(task: Task, function: Callable[[], object]) -> float:
    """Return the median seconds of a call."""
    contestant = Contestant(function)
    contestant.warm_up(task, 0.05)
    return statistics.median(contestant.measure(task) for _ in range(3))
