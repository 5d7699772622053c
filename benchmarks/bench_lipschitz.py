"""Measure the fraction of training time that Lipschitz tracking takes: SNGAN-ResNet 32 on random images.

python benchmarks/bench_lipschitz.py [--steps 3] [--threads 2] [--config FILE] [key.sub=value ...]
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from random_images import random_images_experiment
from timing import measure_seconds, ratios, set_up, take_turns

from gan.config import Config
from gan.options.loader import load_config
from gan.runtime.device import select_device
from gan.training.lipschitz import lipschitz_audit, lipschitz_numbers
from gan.training.step import training_step

CONFIG = Path(__file__).parents[1] / "configs" / "cifar10" / "sngan_resnet.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--steps", type=int, default=3, help="number of training steps to time, after one warm-up step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value")
    options = parser.parse_intermixed_args()
    config = load_config(Config, options.config, [*options.overrides, "eval.metrics=[]"])
    experiment = random_images_experiment(config, select_device("auto"))

    numbers = f"layer norms and gradients, every {config.lipschitz.every} steps"
    audit = f"audit, every {config.lipschitz.audit_every} steps"
    calls = {
        "training step": partial(training_step, experiment, experiment.G, experiment.D),
        numbers: partial(lipschitz_numbers, experiment),
        audit: partial(lipschitz_audit, experiment),
    }
    print(set_up(str(experiment.device), options.threads))
    contestants = {name: partial(measure_seconds, call, experiment.device) for name, call in calls.items()}
    times = take_turns(contestants, options.steps)
    print(f"training step: {format_times(times['training step'])}")
    total = 0.0
    for name, every in ((numbers, config.lipschitz.every), (audit, config.lipschitz.audit_every)):
        fraction = ratios(times[name], times["training step"])[1] / every
        total += fraction
        print(f"{name}: {format_times(times[name])}, {100 * fraction:.2f} % of training")
    print(f"together: {100 * total:.2f} %")


def format_times(seconds: list[float]) -> str:
    """Return the median and the range of the times as text."""
    return f"{torch.tensor(seconds).median():.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
