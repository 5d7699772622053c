"""How a cell stands, read from its run folder."""

import signal
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from gan.compare.arms import Cell
from gan.compare.folder import GridFolder, read_json, write_json
from gan.options.loader import load_config, to_plain
from gan.run import folder as run_folder
from gan.run.divergence import EXIT_CODE, STOPPED, read_divergences
from gan.run.logging import read_lines
from gan.runtime.errors import UserError

PENDING, RUNNING = "pending", "running"
FINISHED, DIVERGED, FAILED, INTERRUPTED = "finished", "diverged", "failed", "interrupted"
ENDED = (FINISHED, DIVERGED)  # results, which training again would only repeat
MAY_DIFFER = ("data.root", "data.download")  # where the data lie changes no number
REASON_LENGTH = 200
# Exit codes of a cell that SIGTERM or Ctrl-C ended, in training or before: by someone who wants to go on later.
SIGNALLED = (128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM, -signal.SIGINT)


@dataclass(frozen=True)
class Outcome:
    """Pending, running, finished, diverged, failed or interrupted; and why, on one line."""

    status: str
    reason: str = ""


def check_cell(folder: GridFolder, cell: Cell) -> None:
    """Raise UserError when the cell's folder holds a run of another config."""
    run = folder.run(cell.name)
    if not (run / run_folder.CONFIG).exists():
        return
    held = to_plain(load_config(type(cell.config), run / run_folder.CONFIG))
    changed = [key for key in run_folder.differences(held, to_plain(cell.config)) if key not in MAY_DIFFER]
    if changed:
        raise UserError(
            f"{run} holds a run of another config (it differs in {', '.join(changed)}); choose another --out"
        )


def read_outcome(run: Path, steps: int) -> Outcome | None:
    """Return how the run in a folder ended, or None for one that can go on."""
    lines = read_lines(run / "metrics.jsonl")
    exported = next(run.glob("*.safetensors"), None)  # what a run writes last
    if not lines or lines[-1]["step"] < steps or exported is None:
        reason = divergence(run)
        return Outcome(DIVERGED, reason) if reason else None
    try:
        load_file(exported)
    except (SafetensorError, OSError) as error:
        return Outcome(FAILED, f"{exported.name}: {error}"[:REASON_LENGTH])
    return Outcome(FINISHED)


def divergence(run: Path) -> str:
    """Return what the run in a folder says of the divergence that stopped it, nothing when none has."""
    *_, last = [{}, *read_divergences(run)]
    return f"{last['not_finite'][0]} is not finite at step {last['step']}" if last.get("then") == STOPPED else ""


def outcome_after(folder: GridFolder, cell: Cell, code: int) -> Outcome:
    """Return how a cell ended whose process gave this exit code, and keep it in the cell's record."""
    ended = read_outcome(folder.run(cell.name), cell.config.train.steps) if code in (0, EXIT_CODE) else None
    if ended is not None:
        outcome = ended
    elif code in SIGNALLED:
        outcome = Outcome(INTERRUPTED)
    else:
        outcome = Outcome(FAILED, f"{_exit(code)}: {_last_line(folder.log(cell.name))}"[:REASON_LENGTH])
    keep_outcome(folder, cell.name, outcome)
    return outcome


def keep_outcome(folder: GridFolder, cell: str, outcome: Outcome) -> None:
    """Write how a cell ended to its record, beside what it took."""
    record = read_json(folder.record(cell))
    write_json(folder.record(cell), record | {"status": outcome.status, "reason": outcome.reason})


def _exit(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by signal {-code}"


def _last_line(log: Path) -> str:
    try:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return "no log"
    return next((line for line in reversed(lines) if line), "no output")
