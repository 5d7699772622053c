"""Train a grid and write its report: python -m gan.compare CONFIG --vary key=v1,v2 --seeds 0,1,2."""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
from filelock import FileLock, Timeout

from gan.compare import description as descriptions
from gan.compare.arms import Cell, build_arms, build_cells, parse_arm, parse_axis, parse_seeds
from gan.compare.description import Description
from gan.compare.experiment_types import get_experiment_type
from gan.compare.folder import GridFolder
from gan.compare.grid import Resources, cores, run_cells
from gan.compare.outcome import FAILED, FINISHED, INTERRUPTED, Outcome, check_cell
from gan.compare.report.hparams import write_hparams
from gan.compare.results import collect, ended
from gan.options.loader import load_config
from gan.run import folder as run_folder
from gan.runtime.command import Parser, exit_code
from gan.runtime.errors import Stopped, UserError

EXTRAS = {"matplotlib": "compare", "rich": "compare", "ray": "ray"}  # which extra has an optional package

EPILOG = """\
Each cell is one ordinary run of train_gan.py, or of train_classifier.py, in OUT/cells/. The same command goes on where
an earlier one stopped, and does nothing twice; with more values, arms or seeds it adds cells. examples:

  python -m gan.compare configs/digits/dcgan.yaml --vary discriminator.normalization=none,spectral,conv_norm
  python -m gan.compare CONFIG --vary 'discriminator.normalization=none,{name: conv_norm, stride: paper}' \\
      --vary optimizer.generator.lr,optimizer.discriminator.lr=1e-3,3e-3 --seeds 0,1,2,3,4 --jobs 2
  python -m gan.compare CONFIG --arm base --arm bn:discriminator.activation_norm=batch --baseline base train.steps=500
  python -m gan.compare --report runs/compare-digits-dcgan

--launcher ray takes the cluster at RAY_ADDRESS, or the one that this machine is part of. --out, CONFIG and the toolkit
must be on storage that all its nodes share under one path, which is checked at the start.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 1 when cells failed or were interrupted, 2 for an error that the
    user can mend, 130 when the comparison was interrupted.
    """
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)
    return exit_code(lambda: run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> None:
    """Train what is missing and write the report, or write that again alone."""
    try:
        options = parse(argv)
        if options.report is not None:
            rewrite(options)
        else:
            compare(options, argv)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in EXTRAS:
            raise
        raise UserError(f"this needs {package}: pip install -e '.[{EXTRAS[package]}]'") from None
    except KeyboardInterrupt:
        raise Stopped("\ninterrupted; the same command goes on from here", 130) from None


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the options; UserError for wrong ones."""
    parser = Parser(
        prog="python -m gan.compare",
        description="Train a grid of runs and write a report of it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, nargs="?", metavar="CONFIG", help="YAML file that all cells share")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="config keys to change in all cells")
    add = parser.add_argument
    add("--vary", action="append", default=[], metavar="KEY=V1,V2", help="an axis of the product; more may follow")
    add("--arm", action="append", default=[], metavar="NAME:KEY=V,KEY=V", help="an arm beside the product")
    add("--seeds", default="0,1,2", metavar="S,S", help="seeds of every arm (default: 0,1,2)")
    add("--out", type=Path, help="folder of the comparison (default: runs/compare-<config>)")
    add("--baseline", metavar="ARM", help="arm that the others are tested against (default: none, or the first)")
    add("--jobs", type=int, metavar="N", help="cells at a time (default: the number of GPUs, or 1; with Ray: all)")
    add("--threads", type=int, metavar="N", help="CPU threads of each cell (default: cores / jobs; with Ray: 1)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
    add("--launcher", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster (default: local)")
    add("--latex", action="store_true", help="write tables.tex (booktabs) as well")
    add("--report", type=Path, metavar="DIR", help="only write the report of DIR again; start nothing")
    options = parser.parse_intermixed_args(argv)
    if (options.config is None) == (options.report is None):
        raise UserError("name the CONFIG to start from, or --report DIR (see --help)")
    for name in ("jobs", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    return options


def compare(options: argparse.Namespace, argv: list[str]) -> None:
    """Train what is missing of the grid, and write the report; Stopped when a cell has no end."""
    from gan.compare.display import Display
    from gan.compare.report.write import write_report

    arms = build_arms([parse_axis(text) for text in options.vary], [parse_arm(text) for text in options.arm])
    cells = build_cells(options.config, options.overrides, arms, parse_seeds(options.seeds))
    base = load_config(get_experiment_type(options.config).schema, options.config, options.overrides)
    folder = GridFolder(options.out or Path("runs") / f"compare-{run_folder.get_run_name(options.config)}")
    launch, resources = launcher(options, len(cells))
    description = descriptions.extended(folder, options.config, base, cells, options.baseline)
    for cell in cells:
        check_cell(folder, cell)
    folder.make()
    try:
        with FileLock(folder.root / ".lock", timeout=0), Display(cells, folder) as display:
            outcomes = ended(folder, cells)
            missing = [cell for cell in cells if cell.name not in outcomes]
            run = descriptions.describe_run(["python", "-m", "gan.compare", *argv])
            if missing and run not in description.runs:
                description.runs.append(run)
            descriptions.save(folder, description)
            for cell in cells:
                if cell.name in outcomes:
                    display.update(cell, outcomes[cell.name])

            def report(cell: Cell, outcome: Outcome) -> None:
                outcomes[cell.name] = outcome
                display.update(cell, outcome)
                if outcome.status == FINISHED:
                    keep(folder, description)

            launch(missing, folder, resources, report)
            keep(folder, description)
    except Timeout:
        raise UserError(f"another python -m gan.compare is at work in {folder.root}; end that first") from None
    show(write_report(folder, description, options.latex))
    if unended := [name for name, outcome in outcomes.items() if outcome.status in (FAILED, INTERRUPTED)]:
        more = f" and {len(unended) - 1} more" if len(unended) > 1 else ""
        raise Stopped(f"{unended[0]}{more} failed or was interrupted; the same command tries again", 1)


def launcher(options: argparse.Namespace, count: int) -> tuple[Callable[..., None], Resources]:
    """Return what trains `count` cells, and what each gets to run on."""
    if options.launcher == "ray":
        from gan.compare import ray_launcher

        return ray_launcher.run_cells, Resources(
            options.config, options.device, options.jobs or count, options.threads or 1
        )
    jobs = options.jobs or max(1, torch.cuda.device_count() if options.device != "cpu" else 1)
    return run_cells, Resources(options.config, options.device, jobs, options.threads or max(1, cores() // jobs))


def rewrite(options: argparse.Namespace) -> None:
    """Write the report of a folder again, from its cells or from what is kept of them."""
    from gan.compare.report.write import write_report

    folder = GridFolder(options.report)
    description = descriptions.load(folder)
    if description is None:
        raise UserError(
            f"--report {folder.root}: holds no comparison ({folder.description.name} is missing); name the --out of one"
        )
    description.choose_baseline(options.baseline)
    descriptions.save(folder, description)
    keep(folder, description)
    show(write_report(folder, description, options.latex))


def keep(folder: GridFolder, description: Description) -> None:
    """Write what is kept of the cells as they stand."""
    collect(folder, description)
    write_hparams(folder, description)


def show(paths: list[Path]) -> None:
    """Say where the report is."""
    print("\n".join(["", *(f"written: {path}" for path in paths)]))


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """End as Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
