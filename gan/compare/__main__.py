"""Train a grid of runs and write a report: python -m gan.compare CONFIG --vary key=v1,v2 --seeds 0,1,2."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch

from gan.compare import local_launcher
from gan.compare.arms import Cell, build_arms, build_cells, parse_arm, parse_axis, parse_seeds
from gan.compare.collect import collect_runs
from gan.compare.description import (
    describe_command,
    extend_description,
    load_description,
    save_description,
)
from gan.compare.experiment_types import get_experiment_type
from gan.compare.folder import GridFolder
from gan.compare.local_launcher import Resources
from gan.compare.report.hparams import write_hparams
from gan.compare.results import Results, find_completed
from gan.compare.start import check_cells
from gan.compare.status import FAILED, FINISHED, INTERRUPTED, Status, check_config
from gan.options.loader import load_config
from gan.options.shipped import config_path
from gan.run import folder as run_folder
from gan.run.lock import hold_lock
from gan.run.start import require_all
from gan.runtime.command import Parser, exit_code
from gan.runtime.errors import Stopped, UserError
from gan.runtime.interrupt import SIGNALS
from gan.runtime.paths import expand_path
from gan.runtime.text import printable

# Optional dependencies
EXTRAS = {"jinja2": "compare", "matplotlib": "compare", "rich": "compare", "ray": "ray", "submitit": "slurm"}

EPILOG = """\
Each cell is one run of train_gan.py, or of train_classifier.py, in OUT/cells/. \
The same command resumes an interrupted comparison and does not repeat completed cells; \
with more values, arms or seeds it adds cells. examples:

  %(prog)s digits/dcgan \\
    --vary discriminator.normalization=none,conv_norm
  %(prog)s CONFIG --seeds 0,1,2,3,4 --jobs 2 \\
    --vary 'discriminator=dcgan,{name: resnet, width: 64}' \\
    --vary generator.z_dim,generator.width=32,64
  %(prog)s CONFIG --baseline base \\
    --arm base --arm bn:discriminator.activation_norm=batch
  %(prog)s --report runs/compare-digits-dcgan
  %(prog)s --out runs/compare \\
    --runs runs/digits-dcgan runs/digits-dcgan-2

--launcher ray connects to the cluster at RAY_ADDRESS, by default to the cluster of the local node. \
--launcher slurm submits a job for each cell. \
The jobs go on when the comparison ends, and the same command waits for them. \
For both, --out, CONFIG and this repository must be on storage that all nodes share under one path.

  %(prog)s CONFIG --seeds 0,1,2,3 \\
    --launcher slurm --slurm partition=gpu timeout_min=240
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns the exit code: 0, 1 if cells failed or were interrupted, 2 for a user error, 130 if the comparison itself
    was interrupted.
    """
    set_signal_handlers()
    return exit_code(lambda: run(sys.argv[1:] if argv is None else argv), prints_results=False)


def set_signal_handlers() -> None:
    """Handle each of `SIGNALS` like Ctrl-C. After the first of them, all but Ctrl-C are ignored: the cells are stopped.

    A signal that the process ignores, like SIGHUP after nohup, stays ignored.
    """
    numbers = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        for other in numbers:
            if other != signal.SIGINT:
                signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupt)


def run(argv: list[str]) -> None:
    """Train all cells that are not completed and write the report, or only write the report with --report."""
    try:
        options = parse(argv)
        if options.report is not None:
            rewrite_report(options)
        elif options.runs is not None:
            compare_runs(options, argv)
        elif options.plugins is not None:
            raise UserError("--plugins: name them in CONFIG, or as plugins=[...], so that every cell imports them")
        else:
            compare(options, argv)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in EXTRAS:
            raise
        raise UserError(f"{package} is not installed: pip install -e '.[{EXTRAS[package]}]'") from None
    except KeyboardInterrupt:
        raise Stopped("\ninterrupted; run the same command again to resume", 130) from None


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the options, with the `cells` that they describe. Raises UserError for invalid options."""
    parser = Parser(
        prog="python -m gan.compare",
        description="Train a grid of runs and write a report.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=config_path, nargs="?", metavar="CONFIG", help="YAML file shared by all cells")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="config keys to override in all cells")
    add = parser.add_argument
    add("--vary", action="append", default=[], metavar="KEY=V1,V2", help="an axis of the grid; can be repeated")
    add("--arm", action="append", default=[], metavar="NAME:KEY=V,KEY=V", help="an additional arm; can be repeated")
    add("--seeds", default="0,1,2", metavar="S,S", help="seeds of each arm (default: 0,1,2)")
    add("--out", type=Path, help="folder of the comparison (default: runs/compare-<config>)")
    add("--baseline", metavar="ARM", help="arm that the others are tested against (default: none, or the first arm)")
    add("--jobs", type=int, metavar="N", help="concurrent cells (default: the number of GPUs, or 1; on a cluster: all)")
    add("--threads", type=int, metavar="N", help="CPU threads per cell (default: cores / jobs; on a cluster: 1)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
    add("--launcher", choices=("local", "ray", "slurm"), default="local", help="(default: local, on this machine)")
    add("--slurm", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="options of Slurm's jobs")
    add("--latex", action="store_true", help="also write tables.tex (booktabs)")
    add("--report", type=Path, metavar="DIR", help="only write the report of DIR again; train nothing")
    add("--runs", nargs="+", metavar="RUN", help="compare runs that exist; train nothing, write a report to --out")
    options = parser.parse_intermixed_args(argv)
    if sum(value is not None for value in (options.config, options.report, options.runs)) != 1:
        raise UserError("name either the CONFIG to start from, or --report DIR, or --runs RUN RUN (see --help)")
    if options.config is None and (options.vary or options.arm):
        raise UserError("--vary and --arm need a CONFIG")
    if options.runs is not None and options.out is None:
        raise UserError("--runs: name a new folder for the report with --out")
    for name in ("jobs", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    if options.slurm and options.launcher != "slurm":
        raise UserError("--slurm needs --launcher slurm")
    if options.config is not None:
        arms = build_arms([parse_axis(text) for text in options.vary], [parse_arm(text) for text in options.arm])
        options.cells = build_cells(options.config, options.overrides, arms, parse_seeds(options.seeds))
    return options


def compare(options: argparse.Namespace, argv: list[str]) -> None:
    """Train all cells that are not completed and write the report. Raises Stopped if cells failed."""
    from gan.compare.progress_table import ProgressTable
    from gan.compare.report.write import write_report

    cells: list[Cell] = options.cells
    kind = get_experiment_type(options.config)
    base = load_config(kind.schema, options.config, options.overrides, imports_plugins=True)
    folder = GridFolder(options.out or Path("runs") / f"compare-{run_folder.get_run_name(options.config)}")
    launch, resources = get_launcher(options, len(cells))
    device = options.device if options.launcher == "local" else "auto"  # this machine may be without the GPUs of others
    base, cells, starts = check_cells(folder, kind, base, cells, device)
    description = extend_description(folder, options.config, base, cells, options.baseline)
    for cell in cells:
        check_config(folder, cell, description.get_cells(cell.arm.name))
    folder.create()
    with hold_lock(folder.lock_file), ExitStack() as stack:
        statuses = find_completed(folder, cells)
        remaining = [cell for cell in cells if cell.name not in statuses]
        require_all([starts[cell.name] for cell in remaining])
        table = stack.enter_context(ProgressTable(cells, folder))
        command = describe_command(["python", "-m", "gan.compare", *argv])
        if remaining and command not in description.runs:
            description.runs.append(command)
        save_description(folder, description)
        for cell in cells:
            if cell.name in statuses:
                table.update(cell, statuses[cell.name])

        results = Results(folder, description)

        def on_change(cell: Cell, status: Status) -> None:
            statuses[cell.name] = status
            table.update(cell, status)
            if status.state == FINISHED:
                save_numbers(results, [cell.name])

        launch(remaining, folder, resources, on_change)
        save_numbers(results)
    print_paths(write_report(folder, description, options.latex))
    if failed := [name for name, status in statuses.items() if status.state in (FAILED, INTERRUPTED)]:
        others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise Stopped(f"{failed[0]}{others} failed or was interrupted; run the same command to try again", 1)


def get_launcher(options: argparse.Namespace, num_cells: int) -> tuple[Callable[..., None], Resources]:
    """Return the function that trains the cells, and the resources of each cell."""
    jobs, threads = options.jobs or num_cells, options.threads or 1  # on a cluster
    if options.launcher == "ray":
        from gan.compare import ray_launcher

        def launch(
            cells: Sequence[Cell], folder: GridFolder, resources: Resources, on_change: Callable[[Cell, Status], None]
        ) -> None:
            ray_launcher.connect()
            set_signal_handlers()  # Ray has replaced them
            ray_launcher.run_cells(cells, folder, resources, on_change)

    elif options.launcher == "slurm":
        from gan.compare import slurm_launcher, slurm_options

        parameters = slurm_options.parse_parameters(options.slurm)
        launch = partial(slurm_launcher.run_cells, parameters=parameters)
        threads = options.threads or parameters.get("cpus_per_task", 1)
    else:
        launch = local_launcher.run_cells
        jobs = options.jobs or max(1, torch.cuda.device_count() if options.device != "cpu" else 1)
        threads = options.threads or max(1, local_launcher.count_cores() // jobs)
    return launch, Resources(options.config, options.device, min(jobs, num_cells), threads)


def rewrite_report(options: argparse.Namespace) -> None:
    """Write the report of an existing comparison again."""
    from gan.compare.report.write import write_report

    folder = GridFolder(options.report)
    description = load_description(folder)
    if description is None:
        raise UserError(
            f"--report {folder.root}: contains no comparison ({folder.description_file.name} is missing); "
            "name the --out of a comparison"
        )
    description.set_baseline(options.baseline)
    save_description(folder, description)
    save_numbers(Results(folder, description))
    print_paths(write_report(folder, description, options.latex))


def compare_runs(options: argparse.Namespace, argv: list[str]) -> None:
    """Write the report of runs that exist."""
    from gan.compare.report.write import write_report

    folder = GridFolder(options.out)
    description = collect_runs(folder, [expand_path(run, "--runs") for run in options.runs], options.baseline)
    description.runs.append(describe_command(["python", "-m", "gan.compare", *argv]))
    save_description(folder, description)
    save_numbers(Results(folder, description))
    print_paths(write_report(folder, description, options.latex))


def save_numbers(results: Results, ended: Iterable[str] | None = None) -> None:
    """Save the results of the cells that have `ended`, or of all, and their hyperparameters for TensorBoard."""
    results.save(ended)
    write_hparams(results.folder, results.description, results.rows)


def print_paths(paths: list[Path]) -> None:
    """Print the paths of the report's files."""
    print("\n".join(["", *(f"written: {printable(path)}" for path in paths)]))


if __name__ == "__main__":
    sys.exit(main())
