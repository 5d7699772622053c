"""The status of a cell, determined from its run folder."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan.compare.arms import Cell
from gan.compare.experiment_types import CLASSIFIER, GAN
from gan.compare.folder import STATES, GridFolder, read_record
from gan.options.loader import load_config, to_plain
from gan.run import folder as run_folder
from gan.run.divergence import EXIT_CODE, STOPPED, read_divergences
from gan.run.lock import check_lock, is_locked
from gan.run.logging import read_metrics
from gan.run.step_files import find_checkpoints
from gan.runtime.errors import UserError
from gan.runtime.files import write_json
from gan.runtime.interrupt import SIGNALS
from gan.runtime.weights import read_metadata

PENDING, RUNNING, FINISHED, DIVERGED, FAILED, INTERRUPTED = STATES
COMPLETED = (FINISHED, DIVERGED)  # training such a cell again would reproduce its result
MAY_DIFFER = ("data.root", "data.download", "data.allow_changes", "plugins")  # these keys do not affect the results
MAX_REASON_LENGTH = 200
INTERRUPTED_CODES = {code for number in SIGNALS for code in (128 + number, -number)}
"""Exit codes after a signal that stops a run, during training and before"""


@dataclass(frozen=True)
class Status:
    """The state of a cell (pending, running, finished, diverged, failed or interrupted) and the reason in one line."""

    state: str
    reason: str = ""


def check_config(folder: GridFolder, cell: Cell, cells_of_arm: Iterable[str]) -> None:
    """Raise UserError if the cell has a run with another config, or without a run another cell of its arm has one.

    Equal overrides mean another config if a default has changed since. A damaged config is not checked: it only matters
    for its own cell, which may be finished.
    """
    runs = [folder.run_folder(name) for name in (cell.name, *cells_of_arm)]
    for run in filter(_has_config, runs):
        try:
            existing = load_config(type(cell.config), run_folder.config_path(run))
        except UserError as error:
            warnings.warn(f"{error}; this config is not checked", stacklevel=2)
            continue
        break
    else:
        return
    changed = [key for key in differing_keys(existing, cell.config) if run == runs[0] or key != "seed"]
    if changed:
        raise UserError(
            f"{run} contains a run with another config (different keys: {', '.join(changed)}); choose another --out"
        )


def _has_config(run: Path) -> bool:
    return (run / run_folder.CONFIG).exists()


def differing_keys(a: Any, b: Any) -> list[str]:
    """Return the dotted keys that differ between two configs, without those that do not affect the results."""
    return [key for key in run_folder.differing_keys(to_plain(a), to_plain(b)) if key not in MAY_DIFFER]


def read_status(run: Path, steps: int) -> Status | None:
    """Return how a run of `steps` steps ended, or None if it is not complete.

    It is complete when it has its last checkpoint and its network, which is the last file that a run writes. Instead of
    the checkpoint, which may have been deleted to save space, it may have the last line of its log.
    """
    exported = next((path for kind in (GAN, CLASSIFIER) if (path := run / kind.export).exists()), None)
    if exported is None or not (steps in find_checkpoints(run) or _has_logged(run, steps)):
        reason = read_divergence(run)
        return Status(DIVERGED, reason) if reason else None
    try:
        read_metadata(exported)  # which refuses a file that is cut, without reading its weights
    except UserError as error:
        return Status(FAILED, str(error)[:MAX_REASON_LENGTH])
    return Status(FINISHED)


def get_status(run: Path, steps: int) -> Status:
    """Return the status of a run of `steps` steps that has begun, wherever it was started."""
    return Status(RUNNING) if is_locked(run) else read_status(run, steps) or Status(INTERRUPTED)


def _has_logged(run: Path, step: int) -> bool:
    return any(line["step"] >= step for line in read_metrics(run))


def read_divergence(run: Path) -> str:
    """Return why a run was stopped as diverged, or an empty string if it was not."""
    *_, last = [{}, *read_divergences(run)]
    return f"{last['not_finite'][0]} is not finite at step {last['step']}" if last.get("then") == STOPPED else ""


def save_final_status(folder: GridFolder, cell: Cell, exit_code: int) -> Status:
    """Return and save the status of a cell whose process ended with this exit code."""
    status = None
    if exit_code in (0, EXIT_CODE):
        status = read_status(folder.run_folder(cell.name), cell.config.train.steps)
    elif exit_code in INTERRUPTED_CODES:
        status = Status(INTERRUPTED)
    if status is None:
        ending = f"exit code {exit_code}" if exit_code >= 0 else f"killed by signal {-exit_code}"
        return save_ending(folder, cell, FAILED, ending)
    save_status(folder, cell.name, status)
    return status


def save_ending(folder: GridFolder, cell: Cell, state: str, ending: str) -> Status:
    """Return and save the status of a cell that ended early. Its reason is `ending` and the last line of its log."""
    reason = f"{ending}: {_read_last_line(folder.log_file(cell.name))}"
    status = Status(state, reason[:MAX_REASON_LENGTH])
    save_status(folder, cell.name, status)
    return status


def save_status(folder: GridFolder, cell: str, status: Status) -> None:
    """Write the status of a cell to its record. Keep the other entries of the record."""
    check_lock(folder.root)
    record = read_record(folder.record_file(cell))
    write_json(folder.record_file(cell), record | {"status": status.state, "reason": status.reason})


def _read_last_line(log: Path) -> str:
    try:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return "no log"
    return next((line for line in reversed(lines) if line), "no output")
