"""Share of the training time that Lipschitz tracking takes with its default intervals: SNGAN-ResNet 32, made-up images.

python benchmarks/bench_lipschitz.py [--steps 3] [--config configs/cifar10/sngan_resnet.yaml] [key.sub=value ...]
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from gan.build import build_experiment, select_device
from gan.config import Config
from gan.data import ImageData, Splits
from gan.lipschitz import lipschitz_audit, lipschitz_numbers
from gan.loop import discriminator_step, generator_step
from gan.yaml_config import load_config

CONFIG = Path(__file__).parents[1] / "configs" / "cifar10" / "sngan_resnet.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--steps", type=int, default=3, help="training steps to time, after one to warm up")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value")
    options = parser.parse_intermixed_args()
    config = load_config(Config, options.config, [*options.overrides, "eval.metrics=[]"])
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (512, 3, 32, 32), generator=random, dtype=torch.uint8)
    data = ImageData(images, torch.zeros(512, dtype=torch.int64), 10)
    run = build_experiment(config, Splits(data, data), Path("unused"), select_device("auto"))

    def step() -> None:
        for k in range(config.train.n_critic):
            discriminator_step(run, run.G, run.D, run.d_steps + k)
        generator_step(run, run.G, run.D)
        run.step += 1

    training = timed(step, options.steps)
    shares = {
        f"layer norms and gradients, every {config.lipschitz.every} steps": (
            timed(lambda: lipschitz_numbers(run), options.steps),
            config.lipschitz.every,
        ),
        f"audit, every {config.lipschitz.audit_every} steps": (
            timed(lambda: lipschitz_audit(run), options.steps),
            config.lipschitz.audit_every,
        ),
    }
    print(f"torch {torch.__version__}, {run.device}, {platform.processor() or platform.machine()}")
    print(f"training step: {show(training)}")
    total = 0.0
    for name, (seconds, every) in shares.items():
        share = statistics.median(seconds) / (every * statistics.median(training))
        total += share
        print(f"{name}: {show(seconds)}, {100 * share:.2f} % of training")
    print(f"together: {100 * total:.2f} %")


def timed(function: Callable[[], object], repeats: int) -> list[float]:
    """Return the seconds of each call after one to warm up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def show(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
