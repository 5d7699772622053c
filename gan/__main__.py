"""One command for all others: convnorm-gan COMMAND ..., or python -m gan COMMAND ... This imports no libraries."""

import runpy
import sys
from pathlib import Path

from gan import __version__
from gan.runtime import startup
from gan.runtime.command import exit_code
from gan.runtime.early import start_command
from gan.runtime.text import fit

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


def main() -> int:
    """Run the command that the command line names and return its exit code; 2 if there is no such command."""
    startup.exit_when_interrupted()
    script = Path(sys.argv[0]).name
    program = "python -m gan" if script == "__main__.py" else script
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help", "--version"):
        text = f"convnorm-gan {__version__}" if name == "--version" else describe_commands(program)
        return exit_code(lambda: print(fit(text)))
    if name not in COMMANDS:
        print(f"error: unknown command {name!a} (commands: {', '.join(COMMANDS)})", file=sys.stderr)
        return 2
    del sys.argv[1]
    startup.typed_command = f"{program} {name}"
    start_command(COMMANDS[name][0], sys.argv[1:])
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)  # it ends the process
    return 0


def describe_commands(program: str) -> str:
    """Return the help text, in which `program` is how the user calls this command."""
    commands = "\n".join(f"  {name:10}{text}" for name, (_, text) in COMMANDS.items())
    return f"usage: {program} COMMAND ...\n\n{commands}\n\nCOMMAND --help shows its options"


if __name__ == "__main__":
    sys.exit(main())
