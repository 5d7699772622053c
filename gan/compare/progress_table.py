"""What the person at the terminal sees of a grid: a live table of all cells; plain lines where there is no terminal."""

import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from gan.compare.arms import Cell
from gan.compare.folder import GridFolder
from gan.compare.outcome import DIVERGED, FAILED, FINISHED, INTERRUPTED, PENDING, RUNNING, Outcome
from gan.compare.tags import primary_metric
from gan.run.logging import read_lines

STYLES = {RUNNING: "cyan", FINISHED: "green", DIVERGED: "magenta", FAILED: "red", INTERRUPTED: "yellow", PENDING: "dim"}
ORDER = [RUNNING, FAILED, DIVERGED, INTERRUPTED, PENDING, FINISHED]  # what a low terminal cuts off last comes first
REFRESH_S = 2.0


class Display:
    """Shows how each cell stands. A context manager: the table is live within it."""

    def __init__(self, cells: Sequence[Cell], folder: GridFolder, console: Console | None = None):
        self._cells = cells
        self._folder = folder
        self._console = console or Console()
        self._states = {cell.name: Outcome(PENDING) for cell in cells}
        self._numbers: dict[str, tuple[int, str]] = {}  # step and newest metric; of ended cells read once
        self._began: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._live = Live(
            get_renderable=self._table, console=self._console, refresh_per_second=1 / REFRESH_S, transient=False
        )

    def __enter__(self) -> "Display":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def update(self, cell: Cell, outcome: Outcome) -> None:
        """Show that a cell stands so from now on."""
        self._states[cell.name] = outcome
        if outcome.status == RUNNING:
            self._began[cell.name] = time.monotonic()
        elif cell.name in self._began:
            self._seconds[cell.name] = time.monotonic() - self._began[cell.name]
        self._numbers.pop(cell.name, None)
        if not self._console.is_terminal:
            done = sum(state.status not in (PENDING, RUNNING) for state in self._states.values())
            reason = f" ({outcome.reason})" if outcome.reason else ""
            metric = "" if outcome.status == RUNNING else self._newest(cell)[1]
            words = [f"[{done}/{len(self._cells)}]", cell.name, outcome.status + reason, metric]
            print("  ".join(filter(None, words)), flush=True)

    def _table(self) -> Table:
        counts = Counter(state.status for state in self._states.values())
        caption = ", ".join(f"{counts[status]} {status}" for status in ORDER if counts[status])
        table = Table(caption=caption, caption_justify="left", box=None, pad_edge=False)
        table.add_column("cell", overflow="fold")
        table.add_column("status", overflow="fold")
        for name in ("step", "metric", "time"):
            table.add_column(name, justify="right")
        for cell in sorted(self._cells, key=lambda cell: ORDER.index(self._states[cell.name].status)):
            state = self._states[cell.name]
            step, metric = self._newest(cell)
            status = f"{state.status}: {state.reason}" if state.reason else state.status
            steps = f"{step}/{cell.config.train.steps}" if step else ""
            table.add_row(cell.name, status, steps, metric, self._time(cell), style=STYLES[state.status])
        return table

    def _newest(self, cell: Cell) -> tuple[int, str]:
        """Return the newest step and metric that a cell has logged."""
        status = self._states[cell.name].status
        if cell.name in self._numbers:
            return self._numbers[cell.name]
        lines = [] if status == PENDING else read_lines(self._folder.run(cell.name) / "metrics.jsonl")
        tag = primary_metric(lines)
        values = [line[tag] for line in lines if tag in line]
        metric = "" if tag is None or values[-1] is None else f"{tag.removeprefix('metrics/')} {values[-1]:.4g}"
        numbers = (lines[-1]["step"] if lines else 0, metric)
        if status != RUNNING:
            self._numbers[cell.name] = numbers
        return numbers

    def _time(self, cell: Cell) -> str:
        if cell.name not in self._began:
            return ""
        seconds = self._seconds.get(cell.name, time.monotonic() - self._began[cell.name])
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
