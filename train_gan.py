"""Train a GAN from a YAML config: argv -> config -> build -> train."""
# PYTHON_ARGCOMPLETE_OK (a shell may start this file for completions)

import sys

if __name__ == "__main__":
    from gan.run.cli import prepare_script

    prepare_script("train_gan.py")  # before the imports below, which take seconds

import argparse
from pathlib import Path

from gan.config import Config
from gan.data import Splits
from gan.data.contents import withdraw_permission
from gan.evaluation.lipschitz import explain_unmeasured
from gan.run import folder as run_folder
from gan.run.cli import SCRIPTS, TrainingParser
from gan.run.lock import check_lock
from gan.run.selection import select_run
from gan.run.start import require_all
from gan.run.summary import format_results, read_last_values
from gan.runtime.allocator import keep_freed_memory
from gan.runtime.command import exit_code
from gan.runtime.device import select_device
from gan.runtime.distributed import broadcast_network, call_on_rank_zero, local_rank_zero_first, process_group, rank
from gan.runtime.interrupt import Interrupt
from gan.runtime.rng import set_deterministic
from gan.runtime.text import printable
from gan.runtime.weights import GENERATOR
from gan.training.build import build_experiment, describe_normalizations
from gan.training.experiment import Experiment
from gan.training.generator_file import export_generator
from gan.training.loop import train
from gan.training.restore import get_trained_generator, resume
from gan.training.start import check_start


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code.

    0 after success, 2 after a user error, 3 when training diverged, 130 after Ctrl-C, 143 after SIGTERM, and so on.
    """
    parser = TrainingParser("train_gan.py")
    return exit_code(lambda: parser.dispatch(argv, run), distributed=True, prints_results=False)


def run(options: argparse.Namespace) -> None:
    """Start or resume a run, train it to its last step, and print the results.

    Every process that torchrun launched calls this; rank 0 alone reads and writes the run folder.
    """
    device = select_device(options.device, required=False)  # `check_start` reports it with all that is missing
    with process_group(device):
        folder, config, saved = call_on_rank_zero(lambda: select_run(options, Config, SCRIPTS["train_gan.py"].default))
        start = check_start(config, folder, options.device, saved)
        require_all([start])
        config = start.config
        keep_freed_memory()
        set_deterministic(config.train.deterministic)
        with run_folder.hold(folder, is_new=saved is None):
            print(f"{printable(folder)}: loading the data and the metrics")
            with local_rank_zero_first():
                splits = config.data.load()
            experiment = build_experiment(config, splits, device)
            if saved is not None:
                resume(experiment, folder)
            for network, _ in experiment.networks.values():
                broadcast_network(network)  # another machine may have computed other initial weights
            if rank() == 0:
                notes = [*start.notes, *describe_normalizations(experiment)]
                run_folder.write_config(folder, withdraw_permission(config), notes)
            print_start(experiment, folder)
            with Interrupt() as interrupt:
                train(experiment, folder, interrupt)
            if rank() == 0:
                check_lock(folder)
                export_generator(folder / GENERATOR, get_trained_generator(experiment))
            print_results(experiment, folder, splits)


def print_start(experiment: Experiment, folder: Path) -> None:
    """Print where training starts, and which Lipschitz numbers are not available."""
    train = experiment.config.train
    print(f"{printable(folder)}: step {experiment.step} of {train.steps} on {experiment.device} in {train.precision}")
    for line in explain_unmeasured(experiment.tracker):
        print(line)


def print_results(experiment: Experiment, folder: Path, splits: Splits) -> None:
    """Print the last metrics and Lipschitz estimates, and where the files are."""
    evaluator = experiment.evaluator
    metrics = [] if evaluator is None else list(map(str, evaluator.protocols))
    real: dict[str, float] = {}
    if evaluator is not None and set(evaluator.extractors) == {"digits"}:  # fast enough to compute every time
        real = evaluator.score_images(splits.train.images, experiment.device, splits.train.labels)
    print("\n" + format_results(read_last_values(folder), metrics, real))
    name = printable(folder)
    print(f"\nrun folder:   {name}\nsamples:      {name}/samples")
    if "tensorboard" in experiment.config.log.to:
        print(f"TensorBoard:  tensorboard --logdir {name} --samples_per_plugin images=100")


if __name__ == "__main__":
    sys.exit(main())
