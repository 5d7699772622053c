"""The config and the run that a command line of a training script selects."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from gan.options.loader import load_config
from gan.run import folder as run_folder


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
    name = run_folder.get_run_name(options.config or default)
    earlier = run_folder.find_folder_of_job()
    out = earlier or options.out
    resumes = options.resume or (earlier is not None and (earlier / run_folder.CONFIG).exists())
    if resumes:
        folder = out or run_folder.find_newest_folder(name)
        path = options.config or run_folder.config_path(folder)
        run_folder.check_config_of_run(path)
        config = load_config(schema, path, options.overrides, imports_plugins=options.config is not None)
        return SelectedRun(folder, config, run_folder.check_same_experiment(folder, config))

    folder = out or run_folder.find_free_folder(name)
    run_folder.check_config_of_run(options.config or default)
    config = load_config(schema, options.config or default, options.overrides, imports_plugins=True)
    run_folder.check_free(folder)
    return SelectedRun(folder, config, None)


def load_selected_config(options: argparse.Namespace, schema: type, default: Path) -> tuple[Path, Any]:
    """Return the config that `select_run` would select, and the file that it is in. Raises UserError."""
    path = options.config or default
    if options.resume and options.config is None:
        path = run_folder.config_path(options.out or run_folder.find_newest_folder(run_folder.get_run_name(default)))
    run_folder.check_config_of_run(path)
    return path, load_config(schema, path, options.overrides, imports_plugins=options.config is not None)
