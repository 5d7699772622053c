"""A comparison of runs that exist: copies of their logs and samples in the folder of a comparison."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gan.compare.arms import EVALUATION, Arm, Cell, to_file_name
from gan.compare.description import Description, extend_description, save_description
from gan.compare.experiment_types import get_experiment_type
from gan.compare.folder import GridFolder
from gan.compare.recover import NAME
from gan.compare.status import differing_keys, get_status, save_status
from gan.options.loader import load_config, to_plain
from gan.run import folder as run_folder
from gan.run.divergence import DIVERGENCES
from gan.run.logging import METRICS, read_log
from gan.run.step_files import REAL, SAMPLES, find_step_files
from gan.runtime.errors import UserError
from gan.runtime.text import printable

TRAINING = (
    "subset|conditional|label_frequencies|horizontal_flip|dequantize|workers|device_budget|download|allow_changes"
)
IMAGES = re.compile(rf"data\.(?!{TRAINING})")  # keys on which the images depend


def collect_runs(folder: GridFolder, runs: Sequence[Path], baseline: str | None) -> Description:
    """Copy what a report needs of each run into a new folder of a comparison, and return its description.

    The runs whose configs differ in the seed alone are the seeds of an arm, which has the name of the first of them.
    Raises UserError, before anything is written, if a run cannot be read, if two have the same config and seed, if they
    have other images or are evaluated in different ways, or if the folder is not empty.
    """
    _check_free(folder.root)
    configs = _load_configs(runs)
    arms = _group(configs)
    cells = {
        run: Cell(Arm(name), configs[run].seed, (), configs[run]) for name, members in arms.items() for run in members
    }
    description = extend_description(folder, runs[0], configs[runs[0]], list(cells.values()), baseline)
    folder.create()
    save_description(folder, description)
    for run, cell in cells.items():
        _copy(run, folder.run_folder(cell.name))
        status = get_status(run, cell.config.train.steps)
        save_status(folder, cell.name, status)
        print(f"{printable(run)}: {cell.name}, {status.state}")
    return description


def _load_configs(runs: Sequence[Path]) -> dict[Path, Any]:
    """Return the config of each run. Raises UserError if they cannot be compared."""
    kind = get_experiment_type(run_folder.config_path(runs[0]))
    configs: dict[Path, Any] = {}
    for run in runs:
        path = run_folder.config_path(run)
        if get_experiment_type(path) is not kind:
            raise UserError(f"{run} is not a run of {kind.script} as {runs[0]} is; compare runs of one script")
        if not (run / METRICS).is_file() or not read_log(run).lines:
            raise UserError(f"{run} has no numbers in {METRICS}: nothing has been logged; leave it out")
        configs[run] = load_config(kind.schema, path)
        differing = run_folder.differing_keys(to_plain(configs[runs[0]]), to_plain(configs[run]))
        if keys := [key for key in differing if EVALUATION.match(key) or IMAGES.match(key)]:
            raise UserError(
                f"{run} and {runs[0]} have other images or are evaluated in another way (different: {', '.join(keys)})"
            )
    return configs


def _check_free(folder: Path) -> None:
    try:
        is_free = not folder.exists() or not any(folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot write to --out {folder}: {error.strerror}") from None
    if not is_free:
        raise UserError(f"--out {folder} is not empty; choose a new folder")


def _group(configs: dict[Path, Any]) -> dict[str, list[Path]]:
    """Return the runs of each arm. Raises UserError if two have the same config and seed."""
    arms: dict[str, list[Path]] = {}
    for run, config in configs.items():
        for members in arms.values():
            if not set(differing_keys(configs[members[0]], config)) - {"seed"}:
                break
        else:
            members = arms.setdefault(_find_free_name(run, arms), [])
        if same := [member for member in members if configs[member].seed == config.seed]:
            raise UserError(f"{same[0]} and {run} have the same config and seed; name one of them")
        members.append(run)
    return arms


def _find_free_name(run: Path, used: dict[str, Any]) -> str:
    """Return the name of a run folder without its seed, with a number if it is used."""
    name = to_file_name(run.resolve().name) or "run"
    name = match["arm"] if (match := NAME.fullmatch(name)) else name
    numbered = (f"{name},{number}" for number in range(2, len(used) + 3))
    return next(free for free in (name, *numbered) if free not in used)


def _copy(run: Path, target: Path) -> None:
    """Copy the config, the log and the last samples of a run."""
    samples = [path.relative_to(run) for path in find_step_files(run / SAMPLES, ".png").values()][-1:]
    try:
        (target / SAMPLES).mkdir(parents=True)
        for name in (run_folder.CONFIG, METRICS, DIVERGENCES, *samples, Path(SAMPLES, REAL)):
            if (run / name).is_file():
                shutil.copyfile(run / name, target / name)
    except OSError as error:
        raise UserError(f"cannot copy {printable(run)} to {printable(target)}: {error.strerror}") from None
