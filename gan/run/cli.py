"""The command line of the training scripts: options, and the run that they start or resume."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from gan.options.help import describe
from gan.options.loader import load_config
from gan.run import folder as run_folder
from gan.runtime.command import Parser


class TrainingParser(Parser):
    """Parser of a command that trains configs of a schema; `--help` lists the config keys."""

    def __init__(self, prog: str, description: str, schema: type, default: Path):
        """Add the options; `default` is the config without --config, in a subfolder of `configs/`."""
        super().__init__(prog=prog, description=description)
        self._schema = schema
        shown = Path(*default.parts[-3:])
        self.add_argument("--config", type=Path, help=f"YAML file (default: {shown}; with --resume: that of the run)")
        self.add_argument("--out", type=Path, help="run folder (default: a new one in runs/, named after the config)")
        self.add_argument("--resume", action="store_true", help="continue the run in --out (default: the newest one)")
        self.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
        self.add_argument("overrides", nargs="*", metavar="key.sub=value", help="config keys to change")

    def format_help(self) -> str:
        """Return the options and the config keys."""
        keys = f"Config keys, in YAML or on the command line as key.sub=value:\n\n{describe(self._schema)}"
        return f"{super().format_help()}\n{keys}\n"


class SelectedRun(NamedTuple):
    """A run to start or to resume."""

    folder: Path
    config: Any
    saved: Any
    """The config in the folder if the run is resumed, otherwise None"""


def select_run(options: argparse.Namespace, schema: type, default: Path) -> SelectedRun:
    """Return the run that the options name. Raises UserError for invalid options.

    A job that torchrun has restarted continues the run of its first attempt, if that attempt had started a run.
    """
    path = options.config or default
    name = run_folder.get_run_name(path)
    earlier = run_folder.find_folder_of_job()
    out = earlier or options.out
    resumes = options.resume or (earlier is not None and (earlier / run_folder.CONFIG).exists())
    if resumes:
        folder = out or run_folder.find_newest_folder(name)
        config = load_config(schema, options.config or run_folder.config_path(folder), options.overrides)
        return SelectedRun(folder, config, run_folder.check_same_experiment(folder, config))

    folder = out or run_folder.find_free_folder(name)
    config = load_config(schema, path, options.overrides)
    run_folder.check_free(folder)
    return SelectedRun(folder, config, None)
