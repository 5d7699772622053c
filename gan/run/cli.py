"""The command line of the training scripts.

This module does not import PyTorch, so that a script can refuse a command line before that, which takes seconds.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gan.options.nodes import parse_override, read_layers
from gan.options.shipped import config_path
from gan.runtime.command import Parser, exit_code
from gan.runtime.startup import exit_when_interrupted
from gan.runtime.text import printable


class TrainingParser(Parser):
    """Parser of a script that trains configs.

    `default` is the config without --config, in a subfolder of `configs/`.
    """

    def __init__(self, prog: str = "", description: str = "", default: Path = Path()):
        usage = f"{prog} [options] [key.sub=value ...]"
        super().__init__(usage=usage, description=description, add_help=False, formatter_class=_Formatter)
        self.default = default
        shown = Path(*default.parts[-3:])
        add = self.add_argument
        add("-h", "--help", nargs="?", const="", metavar="KEY", help="show this page, or a key, a section, or all")
        add("--print-config", action="store_true", help="print the complete config as YAML, and stop")
        add(
            "--config",
            type=config_path,
            metavar="FILE",
            help=f"YAML file (default: {shown};\nwith --resume: that of the run)",
        )
        add("--out", type=Path, metavar="DIR", help="run folder (default: a new one in runs/)")
        add("--resume", action="store_true", help="continue the run in --out (default: the newest one)")
        add("--device", choices=("auto", "cpu", "cuda"), default="auto", metavar="NAME", help="auto, cpu or cuda")
        add("overrides", nargs="*", metavar="key.sub=value", help=argparse.SUPPRESS)

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Return the options. Raises UserError for invalid ones, and if --config or an override is not valid YAML."""
        options = self.parse_intermixed_args(arguments)
        if options.help is not None and "=" in options.help:  # an override after --help
            options.overrides.insert(0, options.help)
            options.help = ""
        if options.config is not None:
            read_layers(options.config)
        for text in options.overrides:
            parse_override(text)
        return options

    def dispatch(self, arguments: Sequence[str] | None, schema: Any, run: Callable[[argparse.Namespace], None]) -> None:
        """Print what --help or --print-config ask for, or else call `run` with the options. Raises UserError.

        `schema` is the dataclass of the configs.
        """
        options = self.parse(arguments)
        if options.help is None and not options.print_config:
            run(options)
            return
        from gan.options.explain import explain, format_page
        from gan.options.help import describe
        from gan.options.loader import dump_config
        from gan.run.selection import load_selected_config

        path, config = load_selected_config(options, schema, self.default)
        if options.print_config:
            print(dump_config(config), end="")
        elif options.help == "all":
            print(describe(schema))
        elif options.help:
            print(explain(config, options.help))
        else:
            print(self.format_help())
            print(f"keys, in YAML or as key.sub=value, with their values in {_relative(path)}:")
            print(format_page(config, schema.COMMON))
            print("\n--help KEY shows a key or a section: --help train, --help train.steps; --help all shows all keys")


class _Formatter(argparse.RawTextHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=26)


def _relative(path: Path) -> str:
    """Return a path relative to the working folder if it is in it."""
    return printable(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def prepare_script() -> None:
    """Prepare the process of a training script, before it imports PyTorch. Ends it if its command line is invalid."""
    exit_when_interrupted()
    # Threads of PyTorch that wait actively slow each other down as soon as another process needs a core: steps then
    # take ten times as long. OpenMP reads this when PyTorch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if code := exit_code(lambda: TrainingParser().parse(None), distributed=True, prints_results=False):
        sys.exit(code)
    exit_when_interrupted()
