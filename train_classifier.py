"""Train a classifier from a YAML config: argv -> config -> build -> train."""

import argparse
import sys
from pathlib import Path

from classification.build import build_experiment
from classification.config import Config
from classification.experiment import Experiment
from classification.loop import train
from classification.summary import accuracy_tables
from gan.compare.experiment_types import CLASSIFIER
from gan.run import folder as run_folder
from gan.run.checkpoint import Checkpoints
from gan.run.cli import open_run, training_parser
from gan.run.divergence import Diverged, stopped
from gan.run.logging import RunLogger
from gan.run.progress import Progress
from gan.run.summary import format_table, lipschitz_rows, newest_values
from gan.run.weights import export_network
from gan.runtime.allocator import keep_freed_memory
from gan.runtime.command import exit_code
from gan.runtime.device import select_device
from gan.runtime.interrupt import Interrupt
from gan.runtime.rng import be_deterministic

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "classification" / "digits.yaml"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 2 for an error that the user can mend, 3 when training
    diverged, 143 or 130 for SIGTERM or Ctrl-C.
    """
    return exit_code(lambda: run(parse(argv)))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options; UserError for wrong ones."""
    parser = training_parser("train_classifier.py", "Train a classifier from a YAML config.", Config, DEFAULT_CONFIG)
    return parser.parse_intermixed_args(argv)


def run(options: argparse.Namespace) -> None:
    """Train a new run, or go on with an old one, and show what came of it."""
    folder, config = open_run(options, Config, DEFAULT_CONFIG)
    device = select_device(options.device)
    keep_freed_memory()
    be_deterministic(config.train.deterministic)
    experiment = build_experiment(config, config.data.load(), folder, device)
    with run_folder.opened(folder, is_new=not options.resume):
        train_in_folder(experiment, options.resume)


def train_in_folder(experiment: Experiment, resume: bool) -> None:
    """Train, from the newest checkpoint on if there is one to resume from, and show what came of it."""
    folder, config, device = experiment.folder, experiment.config, experiment.device
    checkpoints = Checkpoints(folder, config)
    state = checkpoints.load_newest(device) if resume else None
    if state is not None:
        experiment.load_state_dict(state)
    run_folder.write_config(folder, config)

    sets = experiment.sets
    print(f"{folder}: step {experiment.step} of {config.train.steps} on {device}")
    print(f"images: {len(sets.rows)} training, {len(sets.validation_rows)} validation, {len(sets.test)} test")
    if experiment.tracker.nonlinear:
        print(f"no operator norm, and no product of norms: {', '.join(experiment.tracker.nonlinear)} (not affine)")
    logger = RunLogger(folder, experiment.step, CLASSIFIER.network, config.log.to)
    progress = Progress(experiment.step, config.train.steps)
    try:
        with Interrupt() as interrupt:
            train(experiment, checkpoints, logger, progress, interrupt)
    except Diverged as diverged:
        raise stopped(folder, diverged) from None
    finally:
        progress.close()
        logger.close()
    export_network(folder / "classifier.safetensors", experiment.network, config)
    numbers = newest_values(folder)
    print("\n" + accuracy_tables(numbers, config.eval.attack, len(sets.test)))
    print("\n" + format_table(lipschitz_rows(numbers, CLASSIFIER.network)))
    print(f"\nrun folder:   {folder}\nTensorBoard:  tensorboard --logdir {folder}")


if __name__ == "__main__":
    sys.exit(main())
