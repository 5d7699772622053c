"""How a cell stands, read from its run folder."""

import math
import signal
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gan import run_folder
from gan.compare.arms import Cell
from gan.compare.folder import GridFolder, read_json, write_json
from gan.errors import UserError
from gan.logging import read_lines
from gan.yaml_config import load_config, to_plain

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


def outcome_of(run: Path, steps: int) -> Outcome | None:
    """Return how the run in a folder ended, or None for one that has not come to its last step."""
    lines = read_lines(run / "metrics.jsonl")
    exported = next(run.glob("*.safetensors"), None)  # what a run writes last
    if not lines or lines[-1]["step"] < steps or exported is None:
        return None
    if reason := divergence(lines):
        return Outcome(DIVERGED, reason)
    try:
        weights = load_file(exported)
    except (SafetensorError, OSError) as error:
        return Outcome(FAILED, f"{exported.name}: {error}"[:REASON_LENGTH])
    if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
        return Outcome(DIVERGED, f"weights in {exported.name} are not finite")
    return Outcome(FINISHED)


def divergence(lines: list[dict]) -> str:
    """Return since when a loss has not been finite, or nothing when the newest losses are finite."""
    for tag in dict.fromkeys(tag for line in lines for tag in line if tag.startswith("loss/")):
        logged = [(line["step"], line[tag]) for line in lines if tag in line]
        if logged and not _finite(logged[-1][1]):
            since = next(i for i in range(len(logged), 0, -1) if i == 1 or _finite(logged[i - 2][1]))
            return f"{tag} is not finite from step {logged[since - 1][0]} on"
    return ""


def outcome_after(folder: GridFolder, cell: Cell, code: int) -> Outcome:
    """Return how a cell ended whose process gave this exit code, and keep it in the cell's record."""
    lines = read_lines(folder.run(cell.name) / "metrics.jsonl")
    ended = outcome_of(folder.run(cell.name), cell.config.train.steps) if code == 0 else None
    if ended is not None:
        outcome = ended
    elif code in SIGNALLED:
        outcome = Outcome(INTERRUPTED)
    elif reason := divergence(lines):
        outcome = Outcome(DIVERGED, reason)
    else:
        outcome = Outcome(FAILED, f"{_exit(code)}: {_last_line(folder.log(cell.name))}"[:REASON_LENGTH])
    keep_outcome(folder, cell.name, outcome)
    return outcome


def keep_outcome(folder: GridFolder, cell: str, outcome: Outcome) -> None:
    """Write how a cell ended to its record, beside what it took."""
    record = read_json(folder.record(cell))
    write_json(folder.record(cell), record | {"status": outcome.status, "reason": outcome.reason})


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _exit(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by signal {-code}"


def _last_line(log: Path) -> str:
    try:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return "no log"
    return next((line for line in reversed(lines) if line), "no output")
