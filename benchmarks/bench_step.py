"""Compare speed and memory of a training iteration (n_critic D steps, one G step) with torch-mimicry's train_step.

    python benchmarks/bench_step.py                           # SNGAN-ResNet 32, batch 64, n_critic 5
    python benchmarks/bench_step.py --nets resnet dcgan normalizations --repeats 3

Needs the source of torch-mimicry, which is not a dependency: pip install --no-deps torch-mimicry. Each contestant runs
in its own process, because the allocator is configured per process. The contestants alternate, one iteration each, so
that a change of the machine's load affects all of them. Each ratio compares times from the same turn. Prints the median
ratio with the interquartile range, the median time, and the peak resident memory (on a GPU: PyTorch's peak memory).
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from peer import mimicry_step
from random_images import random_images_experiment
from timing import format_ratio, set_up, synchronize

from gan.config import Config
from gan.options.loader import load_config
from gan.runtime.allocator import keep_freed_memory
from gan.training.loop import compile_networks
from gan.training.step import training_step
from models.kernels import plain_kernels

CONFIG = Path(__file__).parents[1] / "configs" / "cifar10" / "sngan_resnet_mimicry.yaml"
NEAREST, BF16 = "generator.upsample=nearest", "train.precision=bf16"
DCGAN = ["discriminator.normalization=none", "loss=nonsaturating"]  # mimicry's DCGAN uses the networks of SNGAN
NO_REWRITES = "no rewrites"  # contestants with this in their label use plain kernels
CONV_NORM = "discriminator.normalization={name: conv_norm, stride: %s, affine: %s}"

# For each table, by label: the name of a network of mimicry, or overrides of CONFIG. Ratios are relative to the first.
TABLES: dict[str, dict[str, str | list[str]]] = {
    "resnet": {
        "torch-mimicry": "sngan",
        "bilinear, fp32": [],
        "bilinear, bf16": [BF16],
        "nearest, fp32": [NEAREST],
        "nearest, bf16": [NEAREST, BF16],
        "nearest, fp32, no rewrites": [NEAREST],
        "nearest, fp32, channels first": [NEAREST, "train.channels_last=false"],
        "nearest, fp32, compiled": [NEAREST, "train.compile=true"],
    },
    "dcgan": {"torch-mimicry": "dcgan", "bilinear, fp32": DCGAN, "bilinear, bf16": [*DCGAN, BF16]},
    "normalizations": {
        "spectral, no rewrites": [NEAREST],
        "spectral": [NEAREST],
        "none": [NEAREST, "discriminator.normalization=none"],
        "spectral_conv": [NEAREST, "discriminator.normalization=spectral_conv"],
        "conv_norm paper": [NEAREST, CONV_NORM % ("paper", "true")],
        "conv_norm strided": [NEAREST, CONV_NORM % ("strided", "true")],
        "conv_norm strided, no affine": [NEAREST, CONV_NORM % ("strided", "false")],
        "conv_norm paper, no rewrites": [NEAREST, CONV_NORM % ("paper", "true")],
        "conv_norm strided, no affine, no rewrites": [NEAREST, CONV_NORM % ("strided", "false")],
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=tuple(TABLES), default=["resnet"], metavar="TABLE")
    parser.add_argument(
        "--only", nargs="+", help="labels of the contestants to run in addition to the first (default: all)"
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--n-critic", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        torch.set_num_threads(options.threads)
        serve(*options.worker, options)
        return
    print(f"{set_up(options.device, options.threads)}, batch {options.batch}, n_critic {options.n_critic}")
    for table in options.nets:
        compare(table, options)


def compare(table: str, options: argparse.Namespace) -> None:
    """Run the contestants of a table in turns, and print one line for each."""
    first, *others = TABLES[table]
    labels = [first, *(options.only or others)]
    workers = {label: start(table, label, options) for label in labels}
    times: dict[str, list[float]] = {label: [] for label in labels}
    for turn in range(options.repeats + 1):
        for label, worker in workers.items():
            worker.stdin.write("step\n")
            worker.stdin.flush()
            seconds = worker.stdout.readline()
            if not seconds:
                raise SystemExit(f"{label}: the process ended unexpectedly")
            if turn > 0:  # the first turn is a warm-up
                times[label].append(float(seconds))
    peaks = {label: float(worker.communicate()[0]) for label, worker in workers.items()}  # also closes the input
    images = options.batch * options.n_critic
    print(f"\n{table}: speed and peak memory relative to {first}")
    for label in labels:
        seconds = torch.tensor(times[label]).median().item()
        print(
            f"{label:40s} {format_ratio(times[first], times[label])} {seconds:7.2f} s {images / seconds:8.1f} images/s"
            f"  memory {peaks[label] / peaks[first]:.2f}x ({peaks[label]:.0f} MiB)",
            flush=True,
        )


def start(table: str, label: str, options: argparse.Namespace) -> subprocess.Popen:
    """Start the process of a contestant."""
    numbers = [f"--{name}={vars(options)[name.replace('-', '_')]}" for name in ("batch", "n-critic", "threads")]
    command = [sys.executable, __file__, *numbers, f"--device={options.device}", "--worker", table, label]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def serve(table: str, label: str, options: argparse.Namespace) -> None:
    """Run one iteration per line of standard input and print its seconds; at the end, print the peak memory in MiB."""
    contestant, device = TABLES[table][label], torch.device(options.device)
    if isinstance(contestant, str):
        step = mimicry_step(contestant, options.batch, options.n_critic, device)
    else:
        step = our_step(contestant, NO_REWRITES in label, options, device)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        synchronize(device)
        print(time.perf_counter() - start, flush=True)
    on_device = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_device else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(peak / 2**20)


def our_step(
    overrides: list[str], plain: bool, options: argparse.Namespace, device: torch.device
) -> Callable[[], None]:
    """Return a function that runs one iteration of the training loop."""
    keep_freed_memory()
    given = [f"train.batch_size={options.batch}", f"train.n_critic={options.n_critic}", "eval.metrics=[]"]
    config = load_config(Config, CONFIG, [*given, *overrides])
    experiment = random_images_experiment(config, device)
    G, D = compile_networks(experiment)

    def step() -> None:
        with plain_kernels() if plain else nullcontext():
            training_step(experiment, G, D)

    return step


if __name__ == "__main__":
    main()
