"""List runs with their status and metrics: python -m gan.runs [FOLDER]."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from gan.compare.experiment_types import get_experiment_type
from gan.compare.results import get_seconds_per_step
from gan.compare.status import get_status
from gan.compare.tags import METRIC, get_primary_metric, higher_is_better
from gan.options.loader import load_config, to_plain
from gan.run import folder as run_folder
from gan.run.logging import METRICS, Line, read_metrics
from gan.run.progress import format_duration
from gan.run.summary import format_table
from gan.runtime.command import Parser, exit_code
from gan.runtime.errors import UserError
from gan.runtime.text import printable

HEADER = ("run", "network", "step", "status", "metric", "best", "last", "time")
EXPLANATION = """\
network  the discriminator or classifier and its normalization
metric   the first one of the run: its best value (step), and its last value
time     of training, without evaluations"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 after a user error."""
    return exit_code(lambda: run(parse(argv)))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options. Raises UserError if they are invalid."""
    parser = Parser(prog="python -m gan.runs", description="List runs with their status and metrics.")
    parser.add_argument("folder", nargs="?", type=Path, default="runs", metavar="FOLDER", help="(default: runs)")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> None:
    """Print the table."""
    print(list_runs(options.folder))


def list_runs(folder: Path) -> str:
    """Return a table of all runs in a folder and the folders in it. A run that cannot be read has the reason.

    Raises UserError if there is no run.
    """
    rows, unreadable = [], []
    for run in sorted(find_runs(folder)):
        name = printable(run.relative_to(folder)) if run != folder else printable(run)
        try:
            rows.append((name, *describe(run)))
        except UserError as error:
            unreadable.append(f"{name}: {error}")
    if not rows and not unreadable:
        raise UserError(f"there are no runs in {folder}; give the folder of runs, or of a comparison")
    table = [format_table([HEADER, *rows]), EXPLANATION] if rows else []
    return "\n\n".join([*table, *(["\n".join(unreadable)] if unreadable else [])])


def find_runs(folder: Path) -> Iterator[Path]:
    """Yield the run folders in `folder`, which may be one. Links to folders are not followed."""

    def refuse(error: OSError) -> None:
        if error.filename == str(folder):
            raise UserError(f"cannot read {folder}: {error.strerror}") from None

    for root, folders, files in os.walk(folder, onerror=refuse):
        if run_folder.CONFIG in files and METRICS in files:
            folders.clear()
            yield Path(root)


def describe(run: Path) -> tuple[str, ...]:
    """Return the entries of a run in the table, all but its name. Raises UserError if its config cannot be read."""
    path = run_folder.config_path(run)
    kind = get_experiment_type(path)
    config = load_config(kind.schema, path)
    lines = read_metrics(run)
    step = lines[-1]["step"] if lines else 0
    state = get_status(run, config.train.steps).state
    network = to_plain(config)[kind.section]
    name = f"{network['name']} {network['normalization']['name']}"
    seconds = get_seconds_per_step(lines, config.train.images_per_step)
    time = "" if seconds is None else format_duration(seconds * step)
    return name, f"{step}/{config.train.steps}", state, *describe_metric(lines), time


def describe_metric(lines: list[Line]) -> tuple[str, str, str]:
    """Return the name of the first metric of a run, its best value, and its last one."""
    tag = get_primary_metric(lines)
    values = {line["step"]: line[tag] for line in lines if tag is not None and line.get(tag) is not None}
    if tag is None or not values:
        return "", "", ""
    best = ""
    if (is_higher := higher_is_better(tag)) is not None:
        step = (max if is_higher else min)(values, key=lambda step: values[step])
        best = f"{values[step]:.4g} ({step})"
    return tag.removeprefix(METRIC), best, f"{list(values.values())[-1]:.4g}"


if __name__ == "__main__":
    sys.exit(main())
