"""Train a classifier from a YAML config: argv -> config -> build -> train."""
# PYTHON_ARGCOMPLETE_OK (a shell may start this file for completions)

import sys

if __name__ == "__main__":
    from gan.run.cli import prepare_script

    prepare_script("train_classifier.py")  # before the imports below, which take seconds

import argparse

from classification.build import build_experiment
from classification.config import Config
from classification.loop import train
from classification.start import check_start
from classification.summary import format_accuracies
from gan.data.contents import withdraw_permission
from gan.evaluation.lipschitz import explain_unmeasured
from gan.evaluation.trained_classifiers import CLASSIFIER
from gan.options.loader import dump_config
from gan.run import folder as run_folder
from gan.run.checkpoint import Checkpoints
from gan.run.cli import SCRIPTS, TrainingParser
from gan.run.lock import check_lock
from gan.run.selection import select_run
from gan.run.start import require_all
from gan.run.state import load_state
from gan.run.summary import format_table, lipschitz_rows, read_last_values
from gan.runtime.allocator import keep_freed_memory
from gan.runtime.command import exit_code
from gan.runtime.device import select_device
from gan.runtime.interrupt import Interrupt
from gan.runtime.rng import set_deterministic
from gan.runtime.text import printable
from gan.runtime.weights import export_network
from models import ImageShape
from models.normalizations import describe_untouched


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code.

    0 after success, 2 after a user error, 3 when training diverged, 130 after Ctrl-C, 143 after SIGTERM, and so on.
    """
    parser = TrainingParser("train_classifier.py")
    return exit_code(lambda: parser.dispatch(argv, run), prints_results=False)


def run(options: argparse.Namespace) -> None:
    """Start or resume a run, train it to its last step, and print the results."""
    folder, config, saved = select_run(options, Config, SCRIPTS["train_classifier.py"].default)
    require_all([check_start(config, folder, options.device, saved)])
    device = select_device(options.device)
    keep_freed_memory()
    set_deterministic(config.train.deterministic)
    experiment = build_experiment(config, config.data.load(), device)
    with run_folder.hold(folder, is_new=saved is None):
        state = Checkpoints(folder, config).load_newest(device, experiment.check_state) if saved else None
        if state is not None:
            load_state(experiment, folder, state)
        note = describe_untouched(experiment.network, config.classifier.normalization)
        run_folder.write_config(folder, withdraw_permission(config), [] if note is None else [f"classifier: {note}"])
        sets = experiment.sets
        print(f"{printable(folder)}: step {experiment.step} of {config.train.steps} on {device}")
        print(f"images: {len(sets.rows)} training, {len(sets.validation_rows)} validation, {len(sets.test)} test")
        for line in explain_unmeasured(experiment.tracker):
            print(line)
        with Interrupt() as interrupt:
            train(experiment, folder, interrupt)
        _, channels, side, _ = sets.train.images.shape
        image = ImageShape(channels, side, sets.train.num_classes)
        check_lock(folder)
        export_network(folder / CLASSIFIER, experiment.network, dump_config(config), image=image)
        numbers = read_last_values(folder)
        print("\n" + format_accuracies(numbers, config.eval.attack, len(sets.test)))
        print("\n" + format_table(lipschitz_rows(numbers, "classifier")))
        print(f"\nrun folder:   {printable(folder)}")
        if "tensorboard" in config.log.to:
            print(f"TensorBoard:  tensorboard --logdir {printable(folder)} --samples_per_plugin images=100")


if __name__ == "__main__":
    sys.exit(main())
