"""Accuracy of a classifier on clean, attacked and corrupted images: python -m classification.evaluate RUN."""

import argparse
import sys
from collections import Counter
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from classification.attacks import fgsm, pgd, random_start
from classification.build import build_experiment
from classification.config import AttackConfig, Config, EvalConfig
from classification.corruptions import SEVERITIES, corrupt
from classification.data import iterate_batches
from classification.summary import attack_tags, format_accuracies
from gan.data import ImageData
from gan.options.loader import load_config
from gan.run import folder as run_folder
from gan.run.checkpoint import Checkpoints
from gan.run.state import load_state
from gan.run.summary import format_table
from gan.runtime import rng
from gan.runtime.command import Parser, exit_code
from gan.runtime.device import select_device
from gan.runtime.errors import UserError
from gan.runtime.text import printable
from metrics.lipschitz.eval_mode import eval_mode

CORRUPTION_SEED = 0  # the corrupted test images are the same in every run, so that runs can be compared


def accuracy(
    network: nn.Module, data: ImageData, batch_size: int, device: torch.device, rows: Tensor | None = None
) -> float:
    """Return the percentage of images that the network classifies as labelled; only of `rows`, if given."""
    correct = total = 0
    with eval_mode(network):
        for _, x, y in iterate_batches(data, batch_size, device, rows):
            correct += int(is_correct(network, x, y).sum())
            total += len(y)
    return 100 * correct / total


def accuracy_by_class(network: nn.Module, data: ImageData, batch_size: int, device: torch.device) -> list[float]:
    """Return the percentage of the images of each class that the network classifies correctly; NaN without images."""
    counts = torch.zeros(2, data.num_classes, dtype=torch.long)
    with eval_mode(network):
        for _, x, y in iterate_batches(data, batch_size, device):
            for row, labels in enumerate((y, y[is_correct(network, x, y)])):
                counts[row] += torch.bincount(labels, minlength=data.num_classes).cpu()
    return (100 * counts[1] / counts[0]).tolist()


def measure_accuracies(
    network: nn.Module, test: ImageData, options: EvalConfig, seed: int, device: torch.device
) -> dict[str, float]:
    """Return the percentages of correct test images by tag: `metrics/accuracy_*` and `corruptions/NAME/SEVERITY`.

    The random starts of PGD depend on `seed`; the corruptions are the same for every seed.
    """
    correct: Counter[str] = Counter()
    fgsm_tag, pgd_tag = attack_tags(options.attack)
    with eval_mode(network):
        for start, x, y in iterate_batches(test, options.batch_size, device):
            correct["metrics/accuracy_test"] += int(is_correct(network, x, y).sum())
            attacked = fgsm(network, x, y, options.attack.eps / 255)
            correct[fgsm_tag] += int(is_correct(network, attacked, y).sum())
            correct[pgd_tag] += int(is_robust_to_pgd(network, x, y, options.attack, seed, start).sum())
            for name in options.corruptions:
                for severity in SEVERITIES:
                    random = rng.generator(device, CORRUPTION_SEED, name, severity, start)
                    corrupted = corrupt(x, name, severity, random)
                    correct[f"corruptions/{name}/{severity}"] += int(is_correct(network, corrupted, y).sum())
    numbers = {tag: 100 * count / len(test) for tag, count in correct.items()}
    for name in options.corruptions:
        numbers[f"metrics/accuracy_{name}"] = fmean(
            numbers[f"corruptions/{name}/{severity}"] for severity in SEVERITIES
        )
    return numbers


def is_robust_to_pgd(
    network: nn.Module, x: Tensor, y: Tensor, options: AttackConfig, seed: int, position: int
) -> Tensor:
    """Return whether each image (B, C, H, W) is classified as labelled (B,) after PGD from every random start."""
    eps, step = options.eps / 255, options.step / 255
    robust = torch.ones_like(y, dtype=torch.bool)
    for restart in range(options.restarts):
        start = random_start(x, eps, rng.generator(x.device, seed, "pgd", restart, position))
        robust &= is_correct(network, pgd(network, x, y, eps, step, options.iterations, start), y)
    return robust


@torch.no_grad()
def is_correct(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return whether each image (B, C, H, W) is classified as labelled (B,)."""
    return network(x).argmax(dim=1) == y


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, or 2 after a user error."""
    return exit_code(lambda: run(parse(argv)))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options, with the `config` that they change. Raises UserError if they are invalid."""
    parser = Parser(prog="python -m classification.evaluate", description="Evaluate the classifier of a run.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--by-class", action="store_true", help="also print the accuracy of each class")
    parser.add_argument("--checkpoint", choices=("newest", "best"), default="newest", help="(default: newest)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
    overrides = "other attacks or corruptions"
    parser.add_argument("overrides", nargs="*", default=[], metavar="eval.sub=value", help=overrides)
    options = parser.parse_intermixed_args(argv)
    for text in options.overrides:
        if not text.startswith(("eval.", "data.allow_changes=")):
            raise UserError(f"{text}: only keys of `eval` can be changed here")
    options.config = load_config(Config, run_folder.config_path(options.run), options.overrides)
    return options


def run(options: argparse.Namespace) -> None:
    """Print the accuracies of a checkpoint on test images."""
    config, device = options.config, select_device(options.device)
    checkpoints = Checkpoints(options.run, config)
    checkpoints.require(options.checkpoint)  # before the data set is loaded
    experiment = build_experiment(config, config.data.load(), device)
    load_state(experiment, options.run, checkpoints.load(options.checkpoint, device, experiment.check_state))
    test = experiment.sets.test
    print(f"{printable(options.run)}: step {experiment.step}, {len(test)} test images\n")
    numbers = measure_accuracies(experiment.network, test, config.eval, config.seed, device)
    print(format_accuracies(numbers, config.eval.attack, len(test)))
    if options.by_class:
        by_class = accuracy_by_class(experiment.network, test, config.eval.batch_size, device)
        names = experiment.sets.train.class_names or map(str, range(test.num_classes))
        rows = [(name, f"{value:.1f}") for name, value in zip(names, by_class, strict=True)]
        print("\n" + format_table([("test images, by class (%)", ""), *rows]))


if __name__ == "__main__":
    sys.exit(main())
