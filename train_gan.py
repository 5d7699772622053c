"""Train a GAN from a YAML config: argv -> config -> build -> train."""

import argparse
import sys
from pathlib import Path

from gan import run_folder
from gan.allocator import keep_freed_memory
from gan.build import build_experiment, select_device
from gan.checkpoint import Checkpoints
from gan.command import Parser, exit_code
from gan.config import Config
from gan.config_help import describe
from gan.divergence import Diverged, roll_back
from gan.experiment import Experiment
from gan.export import export_generator
from gan.interrupt import Interrupt
from gan.logging import RunLogger
from gan.loop import train
from gan.progress import Progress
from gan.summary import newest_values, results_table
from gan.yaml_config import load_config

CONFIGS = Path(__file__).parent / "configs"
DEFAULT_CONFIG = CONFIGS / "digits" / "dcgan_conv_norm.yaml"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 2 for an error that the user can mend, 3 when training
    diverged, 143 or 130 for SIGTERM or Ctrl-C.
    """
    return exit_code(lambda: run(parse(argv)))


class ConfigParser(Parser):
    """Shows the config's keys in `--help`."""

    def format_help(self) -> str:
        """Return the options and the config's keys."""
        keys = f"Config keys, in YAML or on the command line as key.sub=value:\n\n{describe(Config)}"
        return f"{super().format_help()}\n{keys}\n"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options; UserError for wrong ones."""
    parser = ConfigParser(prog="train_gan.py", description="Train a GAN from a YAML config.")
    default = DEFAULT_CONFIG.relative_to(CONFIGS.parent)
    parser.add_argument("--config", type=Path, help=f"YAML file (default: {default}; with --resume: the run's own)")
    parser.add_argument("--out", type=Path, help="run folder (default: a new one in runs/, named after the config)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out (default: the newest one)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="config keys to change")
    return parser.parse_intermixed_args(argv)


def run(options: argparse.Namespace) -> None:
    """Train a new run, or go on with an old one, and show what came of it."""
    path = options.config or DEFAULT_CONFIG
    name = run_folder.name_of(path)
    if options.resume:
        folder = options.out or run_folder.newest_folder(name)
        config = load_config(Config, options.config or run_folder.config_path(folder), options.overrides)
        run_folder.check_same(folder, config)
    else:
        folder = options.out or run_folder.free_folder(name)
        config = load_config(Config, path, options.overrides)
        run_folder.check_free(folder)

    device = select_device(options.device)
    keep_freed_memory()
    splits = config.data.load()
    experiment = build_experiment(config, splits, folder, device)
    checkpoints = Checkpoints(folder, config)
    state = checkpoints.load_newest(device) if options.resume else None
    if state is not None:
        experiment.load_state_dict(state)
    run_folder.write_config(folder, config)

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
    export_generator(folder, experiment.ema.network, config)
    evaluator = experiment.evaluator
    names = [] if evaluator is None else list(map(str, evaluator.protocols))
    # What a perfect generator would reach, where it is cheap to know.
    is_cheap = evaluator is not None and set(evaluator.extractors) == {"digits"}
    floor = evaluator.of_images(splits.train.images, device) if is_cheap else {}
    print("\n" + results_table(newest_values(folder), names, floor))
    print(f"\nrun folder:   {folder}\nsamples:      {folder}/samples\nTensorBoard:  tensorboard --logdir {folder}")


def train_on(experiment: Experiment, checkpoints: Checkpoints, interrupt: Interrupt) -> bool:
    """Train to the last step and return True, or until training diverges and is taken back to a checkpoint."""
    steps = experiment.config.train.steps
    logger, progress = RunLogger(experiment.folder, experiment.logged_step), Progress(experiment.step, steps)
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
