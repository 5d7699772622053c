"""Train a classifier from a YAML config: argv -> config -> build -> train."""

import argparse
import sys
from pathlib import Path

from classification.build import build_experiment
from classification.config import Config
from classification.loop import train
from classification.summary import accuracy_tables
from gan import run_folder
from gan.allocator import keep_freed_memory
from gan.build import select_device
from gan.checkpoint import Checkpoints
from gan.command import exit_code
from gan.export import export_network
from gan.front_door import open_run, training_parser
from gan.interrupt import Interrupt
from gan.kinds import CLASSIFIER
from gan.logging import RunLogger
from gan.progress import Progress
from gan.summary import format_table, lipschitz_rows, newest_values

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "classification" / "digits.yaml"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 for an error that the user can mend."""
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
    experiment = build_experiment(config, config.data.load(), folder, device)
    checkpoints = Checkpoints(folder, config)
    state = checkpoints.load_newest(device) if options.resume else None
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
