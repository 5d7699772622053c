"""Accuracy of a classifier: clean, attacked and corrupted. Of a run: python -m classification.evaluate RUN."""

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
from classification.data import batches
from classification.summary import accuracy_tables, attack_tags
from gan.data import ImageData
from gan.options.loader import load_config
from gan.run import folder as run_folder
from gan.run.checkpoint import newest_or_best
from gan.runtime import rng
from gan.runtime.command import Parser, exit_code
from gan.runtime.device import select_device
from gan.runtime.errors import UserError
from metrics.lipschitz.eval_mode import eval_mode

CORRUPTION_SEED = 0  # the corrupted test images are the same in every run, so that runs can be compared


def accuracy(
    network: nn.Module, data: ImageData, batch_size: int, device: torch.device, rows: Tensor | None = None
) -> float:
    """Return the percentage of images, or of some rows of them, that the network classifies as labelled."""
    right = total = 0
    with eval_mode(network):
        for _, x, y in batches(data, batch_size, device, rows):
            right += int(_right(network, x, y).sum())
            total += len(y)
    return 100 * right / total


def accuracies(
    network: nn.Module, test: ImageData, options: EvalConfig, seed: int, device: torch.device
) -> dict[str, float]:
    """Return percentages by tag: `metrics/accuracy_*`, and `corruptions/NAME/SEVERITY`.

    The random starts of PGD are drawn from the seed, corruptions are the same for every seed.
    """
    right: Counter[str] = Counter()
    fgsm_tag, pgd_tag = attack_tags(options.attack)
    with eval_mode(network):
        for start, x, y in batches(test, options.batch_size, device):
            right["metrics/accuracy_test"] += int(_right(network, x, y).sum())
            attacked = fgsm(network, x, y, options.attack.eps / 255)
            right[fgsm_tag] += int(_right(network, attacked, y).sum())
            right[pgd_tag] += int(is_robust_to_pgd(network, x, y, options.attack, seed, start).sum())
            for name in options.corruptions:
                for severity in SEVERITIES:
                    random = rng.generator(device, CORRUPTION_SEED, name, severity, start)
                    corrupted = corrupt(x, name, severity, random)
                    right[f"corruptions/{name}/{severity}"] += int(_right(network, corrupted, y).sum())
    numbers = {tag: 100 * count / len(test) for tag, count in right.items()}
    for name in options.corruptions:
        of_severities = [numbers[f"corruptions/{name}/{severity}"] for severity in SEVERITIES]
        numbers[f"metrics/accuracy_{name}"] = fmean(of_severities)
    return numbers


def is_robust_to_pgd(
    network: nn.Module, x: Tensor, y: Tensor, options: AttackConfig, seed: int, position: int
) -> Tensor:
    """Return which of the images (B, C, H, W) are classified as labelled (B,) after PGD from every random start."""
    eps, step = options.eps / 255, options.step / 255
    withstood = torch.ones_like(y, dtype=torch.bool)
    for restart in range(options.restarts):
        start = random_start(x, eps, rng.generator(x.device, seed, "pgd", restart, position))
        withstood &= _right(network, pgd(network, x, y, eps, step, options.iterations, start), y)
    return withstood


@torch.no_grad()
def _right(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return network(x).argmax(dim=1) == y


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 for an error that the user can mend."""

    def command() -> None:
        parser = Parser(prog="python -m classification.evaluate", description="Test the classifier of a run.")
        parser.add_argument("run", type=Path, help="run folder")
        parser.add_argument("--checkpoint", choices=("newest", "best"), default="newest", help="(default: newest)")
        parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
        parser.add_argument("overrides", nargs="*", metavar="eval.sub=value", help="other attacks or corruptions")
        options = parser.parse_intermixed_args(argv)
        for text in options.overrides:
            if not text.startswith("eval."):
                raise UserError(f"{text}: only keys of eval can be changed here")
        device = select_device(options.device)
        config = load_config(Config, run_folder.config_path(options.run), options.overrides)
        state = newest_or_best(options.run, config, device, options.checkpoint)
        run = build_experiment(config, config.data.load(), options.run, device)
        run.load_state_dict(state)
        print(f"{options.run}: step {run.step}, {len(run.sets.test)} test images\n")
        numbers = accuracies(run.network, run.sets.test, config.eval, config.seed, device)
        print(accuracy_tables(numbers, config.eval.attack, len(run.sets.test)))

    return exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
