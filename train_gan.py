"""Train a GAN from a YAML config: argv -> config -> build -> train."""

import argparse
import sys
from pathlib import Path

import torch

from gan.config import Config
from gan.data import Splits
from gan.export import GENERATOR, export_generator
from gan.run import folder as run_folder
from gan.run.checkpoint import Checkpoints
from gan.run.cli import open_run, training_parser
from gan.run.divergence import Diverged
from gan.run.logging import RunLogger
from gan.run.progress import Progress
from gan.run.summary import newest_values, results_table
from gan.runtime.allocator import keep_freed_memory
from gan.runtime.command import exit_code
from gan.runtime.device import select_device
from gan.runtime.distributed import call_on_rank_zero, first_only, local_rank_zero_first, process_group
from gan.runtime.interrupt import Interrupt
from gan.runtime.rng import be_deterministic
from gan.training.build import build_experiment
from gan.training.experiment import Experiment
from gan.training.loop import train
from gan.training.restore import TrainedGenerator
from gan.training.rollback import roll_back

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "digits" / "dcgan_conv_norm.yaml"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 2 for an error that the user can mend, 3 when training
    diverged, 143 or 130 for SIGTERM or Ctrl-C.
    """
    return exit_code(lambda: run(parse(argv)), together=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options; UserError for wrong ones."""
    parser = training_parser("train_gan.py", "Train a GAN from a YAML config.", Config, DEFAULT_CONFIG)
    return parser.parse_intermixed_args(argv)


def run(options: argparse.Namespace) -> None:
    """Train a new run, or go on with an old one, and show what came of it; with others that torchrun started too."""
    device = select_device(options.device)
    with process_group(device):
        run_here(options, device)


def run_here(options: argparse.Namespace, device: torch.device) -> None:
    """Do this process's part of a run. The first one alone reads and writes the run's folder."""
    folder, config = call_on_rank_zero(lambda: open_run(options, Config, DEFAULT_CONFIG))
    keep_freed_memory()
    be_deterministic(config.train.deterministic)
    with local_rank_zero_first():
        splits = config.data.load()
    experiment = build_experiment(config, splits, folder, device)
    with run_folder.opened(folder, is_new=not options.resume):
        train_in_folder(experiment, splits, options.resume)


def train_in_folder(experiment: Experiment, splits: Splits, resume: bool) -> None:
    """Train, from the newest checkpoint on if there is one to resume from, and show what came of it."""
    folder, config, device = experiment.folder, experiment.config, experiment.device
    checkpoints = first_only(Checkpoints)(folder, config)
    state = call_on_rank_zero(lambda: checkpoints.load_newest("cpu")) if resume else None
    if state is not None:
        experiment.load_state_dict(state)
    first_only(run_folder.write_config)(folder, config)

    print(f"{folder}: step {experiment.step} of {config.train.steps} on {device}")
    if experiment.tracker.nonlinear:
        print(f"no operator norm, and no product of norms: {', '.join(experiment.tracker.nonlinear)} (not affine)")
    for name, reason in experiment.metrics_left_out.items():
        print(f"metric {name} left out: {reason}")
    if state is None and config.train.on_nan == "rollback":
        checkpoints.save(experiment.state_dict())  # to have something to go back to
    with Interrupt() as interrupt:
        while not train_on(experiment, checkpoints, interrupt):
            pass
    trained = TrainedGenerator(experiment.ema.network, config, experiment.image, experiment.step)
    first_only(export_generator)(folder / GENERATOR, trained)
    evaluator = experiment.evaluator
    names = [] if evaluator is None else list(map(str, evaluator.protocols))
    floor: dict[str, float] = {}
    if evaluator is not None and set(evaluator.extractors) == {"digits"}:
        floor = evaluator.score_images(
            splits.train.images, device
        )  # what a perfect generator would reach, cheap to know
    print("\n" + results_table(newest_values(folder), names, floor))
    print(f"\nrun folder:   {folder}\nsamples:      {folder}/samples\nTensorBoard:  tensorboard --logdir {folder}")


def train_on(experiment: Experiment, checkpoints: Checkpoints, interrupt: Interrupt) -> bool:
    """Train to the last step and return True, or until training diverges and is taken back to a checkpoint."""
    config = experiment.config
    logger = first_only(RunLogger)(experiment.folder, experiment.logged_step, to=config.log.to)
    progress = first_only(Progress)(experiment.step, config.train.steps)
    try:
        train(experiment, checkpoints, logger, progress, interrupt)
    except Diverged as diverged:
        roll_back(experiment, checkpoints, diverged)
        return False
    finally:
        progress.close()
        logger.close()
    return True


if __name__ == "__main__":
    sys.exit(main())
