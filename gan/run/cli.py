"""The command line of the training scripts.

This module does not import PyTorch, so that a script can refuse a command line before that, which takes seconds.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from gan.options.nodes import parse_override, read_layers
from gan.options.shipped import CONFIGS, config_path
from gan.run.completion import complete
from gan.runtime.command import Parser, exit_code
from gan.runtime.early import answer_early
from gan.runtime.startup import exit_when_interrupted
from gan.runtime.text import fit, printable
from gan.runtime.without_libraries import LibraryNeededError


class Script(NamedTuple):
    """A script that trains configs."""

    description: str
    module: str
    """The module with the config's dataclass `Config`"""
    default: Path
    """The config without --config"""


SCRIPTS = {
    "train_gan.py": Script(
        "Train a GAN from a YAML config.", "gan.config", CONFIGS / "digits" / "dcgan_conv_norm.yaml"
    ),
    "train_classifier.py": Script(
        "Train a classifier from a YAML config.", "classification.config", CONFIGS / "classification" / "digits.yaml"
    ),
}


class TrainingParser(Parser):
    """Parser of one of the `SCRIPTS`."""

    def __init__(self, name: str):
        self.script = SCRIPTS[name]
        usage = "%(prog)s [options] [key.sub=value ...]"
        description = self.script.description
        super().__init__(name, usage=usage, description=description, add_help=False, formatter_class=_Formatter)
        add = self.add_argument
        add("-h", "--help", nargs="?", const="", metavar="KEY", help="show this page, or a key, a section, or all")
        add("--print-config", action="store_true", help="print the complete config as YAML, and stop")
        add(
            "--config",
            type=config_path,
            metavar="FILE",
            help=f"YAML file (default: {_shorten(self.script.default)}; with --resume: that of the run)",
        )
        add("--out", type=Path, metavar="DIR", help="run folder (default: a new one in runs/)")
        add("--resume", action="store_true", help="continue the run in --out (default: the newest one)")
        add("--device", choices=("auto", "cpu", "cuda"), default="auto", metavar="NAME", help="auto, cpu or cuda")
        add("overrides", nargs="*", metavar="key.sub=value", help=argparse.SUPPRESS)

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Return the options, with the contents of --config and of the overrides as `layers`.

        Raises UserError for invalid ones, and if something is not valid YAML.
        """
        options = self.parse_intermixed_args(arguments)
        if options.help is not None and "=" in options.help:  # an override after --help
            options.overrides.insert(0, options.help)
            options.help = ""
        if words := [word for word in options.overrides if "=" not in word]:
            self.error(f"{words[0]}: an override must have the form key.sub=value; write --config before a file")
        options.layers = [] if options.config is None else read_layers(options.config)
        options.layers += map(parse_override, options.overrides)
        return options

    def dispatch(self, arguments: Sequence[str] | None, run: Callable[[argparse.Namespace], None]) -> None:
        """Parse the arguments, and do what `answer` does. Raises UserError."""
        self.answer(self.parse(arguments), run)

    def answer(self, options: argparse.Namespace, run: Callable[[argparse.Namespace], None]) -> None:
        """Print what --help or --print-config ask for and end the command, or else call `run` with the options.

        Raises UserError.
        """
        if options.help is None and not options.print_config:
            run(options)
            return
        from gan.options.explain import explain, format_page
        from gan.options.help import describe
        from gan.options.loader import dump_config

        path, config = self.load(options)
        if options.print_config:
            print(dump_config(config), end="")
        elif options.help == "all":
            print(fit(describe(type(config))))
        elif options.help:
            print(fit(explain(config, options.help)))
        else:
            keys = f"keys, in YAML or as key.sub=value, with their values in {_shorten(path)}:"
            page = format_page(config, config.COMMON)
            last = "--help KEY shows a key or a section: --help train, --help train.steps; --help all shows all keys"
            print(self.format_help() + fit(f"\n{keys}\n{page}\n\n{last}"))
        self.exit()

    def check(self, options: argparse.Namespace) -> NoReturn:
        """Raise UserError if the config is invalid, and LibraryNeededError if it can be trained."""
        self.load(options)
        raise LibraryNeededError

    def load(self, options: argparse.Namespace) -> tuple[Path, Any]:
        """Return the path of the config that the options select, and the config. Raises UserError."""
        from gan.run.selection import load_selected_config

        schema = importlib.import_module(self.script.module).Config
        return load_selected_config(options, schema, self.script.default)


class _Formatter(argparse.RawTextHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=26)


def _shorten(path: Path) -> str:
    """Return a config as it may be written after --config."""
    if path.is_relative_to(CONFIGS):
        return path.relative_to(CONFIGS).with_suffix("").as_posix()
    return printable(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def prepare_script(name: str) -> None:
    """Prepare the process of a training script, before it imports PyTorch.

    Ends it if the answer to its command line needs no PyTorch: an error in the config, or what --help asks for.
    """
    exit_when_interrupted()
    # Threads of PyTorch that wait actively slow each other down as soon as another process needs a core: steps then
    # take ten times as long. OpenMP reads this when PyTorch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = TrainingParser(name)
    if "_ARGCOMPLETE" in os.environ:  # a shell asks for completions
        sys.exit(complete(parser, parser.script.module))
    parsed: list[argparse.Namespace] = []
    code = exit_code(lambda: parsed.append(parser.parse(None)), distributed=True)
    exit_when_interrupted()
    if not parsed:
        sys.exit(code)
    answer_early(parser.script.module, lambda: parser.answer(parsed[0], parser.check))
