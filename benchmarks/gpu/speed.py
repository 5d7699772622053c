"""Stages of the GPU check that time training steps: against torch-mimicry, by kernel, by part, and compiled."""

import importlib.util
import statistics
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.task import (
    DCGAN,
    MIMICRY,
    RESNET,
    Contestant,
    Task,
    largest_difference,
    step_contestant,
    to_numbers,
)
from benchmarks.peer import MISSING, mimicry_step
from benchmarks.timing import measure_seconds
from gan.runtime.cuda_graphs import WARMUP_CALLS
from gan.runtime.precision import Precision, training_precision
from gan.training.lipschitz import lipschitz_audit, lipschitz_numbers
from gan.training.step import training_step

EAGER, CAPTURED, COMPILED = "train.graph=false", "train.graph=auto", "train.compile=true"
NORM = "discriminator.normalization="
STRIDED = "{name: conv_norm, stride: strided}"
NORMALIZATIONS = ("spectral", "conv_norm", "none", "spectral_conv")
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")


def step(task: Task) -> None:
    """Time a step of SNGAN-ResNet 32 as in torch-mimicry, against torch-mimicry's own, in turns.

    The convolutions of torch-mimicry in tf32 are what PyTorch does by default.
    """
    contestants: dict[str, Callable[[], Contestant]] = {}
    if importlib.util.find_spec("torch_mimicry") is None:
        task.note("torch-mimicry: missing", reason=MISSING)
    else:
        batch, n_critic = (4, 1) if task.tiny else (64, 5)
        theirs = mimicry_step("sngan", batch, n_critic, task.device)
        for precision in ("fp32", "tf32"):
            function = partial(_run_in_precision, theirs, precision)
            contestants[f"torch-mimicry, {precision}"] = lambda f=function: Contestant(f, batch * n_critic)
    for graph, form in ((CAPTURED, "captured"), (EAGER, "eager")):
        for precision in PRECISIONS:
            keys = (graph, f"train.precision={precision}")
            contestants[f"{precision}, {form}"] = lambda keys=keys: step_contestant(task.build(MIMICRY, *keys))
    task.compare(contestants, "torch-mimicry, fp32", "fp32, eager", "tf32, eager", "bf16, eager")


def _run_in_precision(function: Callable[[], None], precision: Precision) -> None:
    with training_precision(precision):
        function()


def normalizations(task: Task) -> None:
    """Time a step of SNGAN-ResNet 32 with each normalization of D, relative to spectral norm."""
    for precision, graph, form in (
        ("bf16", CAPTURED, "captured"),
        ("tf32", CAPTURED, "captured"),
        ("fp32", CAPTURED, "captured"),
        ("bf16", EAGER, "eager"),
    ):
        contestants = {}
        for name in NORMALIZATIONS:
            keys = (graph, NORM + name, f"train.precision={precision}")
            label = f"{name}, {precision}, {form if name != 'spectral_conv' else 'eager'}"
            contestants[label] = lambda keys=keys: step_contestant(task.build(RESNET, *keys))
        task.compare(contestants, f"spectral, {precision}, {form}", repeats=3)


def networks(task: Task) -> None:
    """Time steps of DCGAN 32 with batch size 128, and of SNGAN-ResNet with 128 x 128 pixels, also batches in parts."""
    forms = {"captured": CAPTURED, "eager": EAGER}
    contestants = {}
    for precision in ("bf16", "fp32"):
        for form, graph in forms.items():
            keys = (graph, f"train.precision={precision}")
            contestants[f"DCGAN 32, {precision}, {form}"] = lambda keys=keys: step_contestant(task.build(DCGAN, *keys))
    task.compare(contestants, "DCGAN 32, bf16, eager")
    contestants = {}
    names = {name: name for name in ("none", "spectral", "conv_norm", "oni", "gradient", "spectral_conv")}
    for label, name in (names | {"conv_norm, strided": STRIDED}).items():
        keys = (CAPTURED, NORM + name, "train.precision=bf16")
        contestants[f"DCGAN 32, bf16, D with {label}"] = lambda k=keys: step_contestant(task.build(DCGAN, *k))
    task.compare(contestants, "DCGAN 32, bf16, D with none", repeats=3)
    side = 64 if task.tiny else 128
    large_forms = {"captured": (CAPTURED,), "captured, in 4 parts": (CAPTURED, "train.accumulate=4"), "eager": (EAGER,)}
    large = {
        f"SNGAN {side}, bf16, {form}": lambda keys=keys: step_contestant(
            task.build(RESNET, *keys, "train.precision=bf16", side=side)
        )
        for form, keys in large_forms.items()
    }
    for label, make in large.items():  # one after the other: each needs much memory
        task.compare({label: make}, repeats=3)


KINDS = {  # of kernels, by parts of their names; the first that fits counts
    "convolution": ("conv", "cudnn", "xmma", "wgrad", "dgrad", "fprop"),
    "FFT": ("fft",),
    "matrix product": ("gemm", "gemv", "cutlass", "dot_kernel", "nvjet"),
    "Adam": ("adam",),
    "batch norm": ("batch_norm", "bn_fw", "bn_bw"),
    "layout": ("nchwtonhwc", "nhwctonchw", "transpose"),
    "resampling": ("upsample", "avg_pool"),
    "random": ("distribution", "philox"),
    "copy": ("memcpy", "memset", "copy"),
    "reduction": ("reduce",),
    "elementwise": ("elementwise", "multi_tensor", "foreach"),
}


def profiles(task: Task) -> None:
    """Write the share of the wall time in which a kernel runs, the number of kernels, and their time by kind."""
    for precision, name, keys, form in (
        ("bf16", "spectral", (CAPTURED,), "captured"),
        ("bf16", "conv_norm", (CAPTURED,), "captured"),
        ("bf16", "spectral", (CAPTURED, COMPILED), "compiled"),
        ("bf16", "conv_norm", (CAPTURED, COMPILED), "compiled"),
        ("bf16", "spectral", (EAGER,), "eager"),
    ):
        label = f"{name}, {precision}, {form}"
        with task.attempt(label):
            contestant = step_contestant(task.build(RESNET, *keys, NORM + name, f"train.precision={precision}"))
            contestant.warm_up(task)
            wall = 1000 * statistics.median(contestant.measure(task) for _ in range(3))
            count = 1 if task.tiny else 5
            activity = ProfilerActivity.CUDA if task.on_cuda else ProfilerActivity.CPU
            with profile(activities=[activity]) as profiled:
                measure_seconds(lambda c=contestant, n=count: [c.function() for _ in range(n)], task.device)
            kernels = _kernels(profiled.events() or [], task.on_cuda)
            busy = _covered_ms([(kernel.time_range.start, kernel.time_range.end) for kernel in kernels]) / count
            by_kind: Counter[str] = Counter()
            by_name: Counter[str] = Counter()
            launches: Counter[str] = Counter()
            for kernel in kernels:
                elapsed = kernel.time_range.elapsed_us() / 1000 / count
                by_kind[_kind(kernel.name)] += elapsed
                by_name[kernel.name[:100]] += elapsed
                launches[kernel.name[:100]] += 1
            numbers = {"ms": wall, "kernels, ms": busy, "kernels / wall": busy / wall}
            task.note(label, **numbers, **{"kernels, number": round(len(kernels) / count)}, **contestant.facts)
            task.note(f"{label}: ms by kind", value=", ".join(f"{k} {ms:.3g}" for k, ms in by_kind.most_common()))
            for kernel, ms in by_name.most_common():
                print(f"{label}: {ms:9.4f} ms, {launches[kernel] / count:6.1f} x {kernel}")


def _kernels(events: list[FunctionEvent], on_cuda: bool) -> list[FunctionEvent]:
    """Return the events of kernels and copies on the GPU; on a CPU, which has none, those of operations."""
    if not on_cuda:
        return [event for event in events if event.name.startswith("aten::")]
    annotations = ("ProfilerStep", "Optimizer.", "Activity Buffer")  # ranges, which cover kernels and gaps
    on_device = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    return [event for event in on_device if not event.name.startswith(annotations)]


def _covered_ms(intervals: list[tuple[float, float]]) -> float:
    """Return how many milliseconds at least one of the intervals, in microseconds, covers."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total / 1000


def _kind(kernel: str) -> str:
    lower = kernel.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in lower for part in parts)), "other")


def lipschitz(task: Task) -> None:
    """Write the share of the training time that Lipschitz numbers and audits take, with their default intervals."""
    for name in ("spectral", "conv_norm"):
        with task.attempt(name):
            experiment = task.build(RESNET, NORM + name, "train.precision=bf16")
            contestant = step_contestant(experiment)
            contestant.warm_up(task)
            step_seconds = statistics.median(contestant.measure(task) for _ in range(3))
            options, total = experiment.config.lipschitz, 0.0
            for label, function, every in (
                ("numbers", lipschitz_numbers, options.every),
                ("audit", lipschitz_audit, options.audit_every),
            ):
                for _ in range(1 if label == "audit" or task.tiny else WARMUP_CALLS + 1):
                    measure_seconds(partial(function, experiment), task.device)
                repeats = 1 if task.tiny else 3
                seconds = statistics.median(
                    measure_seconds(partial(function, experiment), task.device) for _ in range(repeats)
                )
                share = seconds / every / step_seconds
                total += share
                task.note(f"{name}: {label}", **{"ms": 1000 * seconds, "every": every, "% of training": 100 * share})
            task.note(f"{name}: together", **{"step, ms": 1000 * step_seconds, "% of training": 100 * total})


def compiled(task: Task) -> None:
    """Time captured steps of compiled networks against captured and eager ones, and compare the losses of a step."""
    for name, precision in (("spectral", "bf16"), ("conv_norm", "bf16"), ("none", "bf16"), ("spectral", "tf32")):
        label = f"{name}, {precision}"
        if task.seconds_left < 25 and not task.tiny:
            task.note(f"{label}: not run", reason="no time was left")
            continue
        torch.compiler.reset()
        keys = (NORM + name, f"train.precision={precision}")
        with task.attempt(label):
            eager, other = task.build(RESNET, *keys, EAGER), task.build(RESNET, *keys, CAPTURED, COMPILED)
            compiled_step = step_contestant(other)
            losses: list[dict[str, float]] = []

            def first_step(function=compiled_step.function, losses=losses) -> None:
                losses.append(to_numbers(function()))

            seconds = measure_seconds(first_step, task.device)
            losses.append(to_numbers(training_step(eager, eager.G, eager.D)))
            difference = largest_difference(losses[1], losses[0])
            task.note(f"{label}: compilation", **{"seconds": seconds, "largest difference of losses": difference})
            contestants = {
                f"{label}, compiled": lambda c=compiled_step: c,
                f"{label}, captured": lambda keys=keys: step_contestant(task.build(RESNET, *keys, CAPTURED)),
                f"{label}, eager": lambda e=eager: step_contestant(e),
            }
            task.compare(contestants, f"{label}, eager", repeats=3)
