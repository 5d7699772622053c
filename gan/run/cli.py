"""What the commands that train share: their options, and the run that these open."""

import argparse
from pathlib import Path
from typing import Any

from gan.options.help import describe
from gan.options.loader import load_config
from gan.run import folder as run_folder
from gan.runtime.command import Parser


class TrainingParser(Parser):
    """Shows the keys of the config `schema` in `--help`."""

    schema: type

    def format_help(self) -> str:
        """Return the options and the config's keys."""
        keys = f"Config keys, in YAML or on the command line as key.sub=value:\n\n{describe(self.schema)}"
        return f"{super().format_help()}\n{keys}\n"


def training_parser(prog: str, description: str, schema: type, default: Path) -> TrainingParser:
    """Return the parser of a command that trains configs of `schema`; `default` is the one without --config.

    The default must lie two folders below the repository's root, as configs/digits/dcgan.yaml does.
    """
    parser = TrainingParser(prog=prog, description=description)
    parser.schema = schema
    shown = default.relative_to(default.parents[2])
    parser.add_argument("--config", type=Path, help=f"YAML file (default: {shown}; with --resume: the run's own)")
    parser.add_argument("--out", type=Path, help="run folder (default: a new one in runs/, named after the config)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out (default: the newest one)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="config keys to change")
    return parser


def open_run(options: argparse.Namespace, schema: type, default: Path) -> tuple[Path, Any]:
    """Return the folder and the config of the new run, or of the old one to go on with; UserError for a wrong one."""
    path = options.config or default
    name = run_folder.get_run_name(path)
    if options.resume:
        folder = options.out or run_folder.newest_folder(name)
        config = load_config(schema, options.config or run_folder.config_path(folder), options.overrides)
        run_folder.check_same(folder, config)
    else:
        folder = options.out or run_folder.free_folder(name)
        config = load_config(schema, path, options.overrides)
        run_folder.check_free(folder)
    return folder, config
