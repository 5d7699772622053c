"""Compare the time of a training step of the arms of a study.

    python benchmarks/bench_arms.py docs/studies/stacked_digits

The arms take turns, so that a change of the machine's load affects all of them. Each ratio compares times from the same
turn. Prints the median ratio to the first arm with the interquartile range, and the median time. Arms that differ in
their learning rate only are one.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from timing import format_ratio, measure_seconds, set_up, take_turns

from gan.compare.description import load_description
from gan.compare.folder import GridFolder
from gan.config import Config
from gan.data import Splits
from gan.options.loader import load_config
from gan.training.build import build_experiment
from gan.training.step import training_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, metavar="STUDY", help="folder of a comparison")
    parser.add_argument("--first", default="none", help="arm that the others are compared with")
    parser.add_argument("--steps", type=int, default=16, help="steps in a turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    configs = read_arms(options.study)
    splits = configs[options.first].data.load()
    print(set_up("cpu", options.threads))
    contestants = {
        arm: partial(measure_seconds, build_steps(configs[arm], splits, options.steps), torch.device("cpu"))
        for arm in sorted(configs, key=lambda arm: arm != options.first)
    }
    times = take_turns(contestants, options.repeats)
    for arm, seconds in times.items():
        print(f"{arm:24s} {format_ratio(seconds, times[options.first])} {median(seconds) / options.steps:8.4f} s")


def read_arms(study: Path) -> dict[str, Config]:
    """Return the config of each arm of a study, without its learning rate in the name."""
    description = load_description(GridFolder(study))
    if description is None:
        raise SystemExit(f"{study} has no readable grid.json")
    cells = {cell["arm"].partition(",lr=")[0]: cell for cell in reversed(description.cells.values())}
    return {
        arm: load_config(Config, Path(description.config), [*cell["overrides"], "eval.metrics=[]"])
        for arm, cell in cells.items()
    }


def build_steps(config: Config, splits: Splits, steps: int) -> Callable[[], None]:
    """Return a function that runs training steps."""
    experiment = build_experiment(config, splits, torch.device("cpu"))
    experiment.G.train()
    experiment.D.train()

    def run() -> None:
        for _ in range(steps):
            training_step(experiment, experiment.G, experiment.D)

    return run


if __name__ == "__main__":
    main()
