"""One command for all others: convnorm-gan COMMAND ..., or python -m gan COMMAND ... This imports no libraries."""

import runpy
import sys

from gan import __version__
from gan.runtime.command import exit_code
from gan.runtime.startup import exit_when_interrupted

COMMANDS = {
    "train": ("train_gan", "train a GAN"),
    "classify": ("train_classifier", "train a classifier"),
    "compare": ("gan.compare", "train a grid of runs and write a report"),
    "evaluate": ("gan.evaluate", "compute metrics of a run, or of folders of images"),
    "sample": ("gan.sample", "draw samples from the generator of a run"),
    "export": ("gan.export", "write the generator of a run to one file"),
    "audit": ("gan.audit", "measure the Lipschitz constants of a run"),
    "data": ("gan.data", "prepare a dataset and show its contents"),
    "runs": ("gan.runs", "list runs with their status and metrics"),
}
"""The module of each command, which can be started by itself, and what it does"""
USAGE = "usage: convnorm-gan COMMAND ...\n\n" + "\n".join(f"  {n:10}{text}" for n, (_, text) in COMMANDS.items())


def main() -> int:
    """Run the command that the command line names and return its exit code; 2 if there is no such command."""
    exit_when_interrupted()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help", "--version"):
        text = f"convnorm-gan {__version__}" if name == "--version" else f"{USAGE}\n\nCOMMAND --help shows its options"
        return exit_code(lambda: print(text))
    if name not in COMMANDS:
        print(f"error: unknown command {name!a} (commands: {', '.join(COMMANDS)})", file=sys.stderr)
        return 2
    del sys.argv[1]
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)  # it ends the process
    return 0


if __name__ == "__main__":
    sys.exit(main())
