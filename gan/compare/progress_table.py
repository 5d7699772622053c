"""Show the progress of a comparison: a live table in a terminal, plain lines elsewhere."""

import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from gan.compare.arms import Cell
from gan.compare.folder import GridFolder
from gan.compare.log_tail import LogTail
from gan.compare.status import DIVERGED, FAILED, FINISHED, INTERRUPTED, PENDING, RUNNING, Status
from gan.run.progress import format_duration

STYLES = {RUNNING: "cyan", FINISHED: "green", DIVERGED: "magenta", FAILED: "red", INTERRUPTED: "yellow", PENDING: "dim"}
ORDER = [RUNNING, FAILED, DIVERGED, INTERRUPTED, PENDING, FINISHED]  # a small terminal cuts off the last rows
REFRESH_S = 2.0


class ProgressTable:
    """Shows the status of each cell. Used as a context manager, in which the table is live."""

    def __init__(self, cells: Sequence[Cell], folder: GridFolder, console: Console | None = None):
        self._cells = cells
        self._console = console or Console()
        self._statuses = {cell.name: Status(PENDING) for cell in cells}
        self._logs = {cell.name: LogTail(folder.run_folder(cell.name)) for cell in cells}
        self._progress: dict[str, tuple[int, str]] = {}  # step and metric
        self._start_times: dict[str, float] = {}
        self._start_steps: dict[str, int] = {}
        self._durations: dict[str, float] = {}
        self._live = Live(
            get_renderable=self._build_table, console=self._console, refresh_per_second=1 / REFRESH_S, transient=False
        )

    def __enter__(self) -> "ProgressTable":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def update(self, cell: Cell, status: Status) -> None:
        """Set the status of a cell. Without a terminal, print it."""
        if status.state == RUNNING:  # before the thread that draws the table reads the log
            self._start_steps[cell.name] = self._logs[cell.name].read()[0]
            self._start_times[cell.name] = time.monotonic()
        self._statuses[cell.name] = status
        if status.state != RUNNING and cell.name in self._start_times:
            self._durations[cell.name] = time.monotonic() - self._start_times[cell.name]
        self._progress.pop(cell.name, None)
        if not self._console.is_terminal:
            done = sum(other.state not in (PENDING, RUNNING) for other in self._statuses.values())
            reason = f" ({status.reason})" if status.reason else ""
            metric = "" if status.state == RUNNING else self._get_progress(cell)[1]
            parts = [f"[{done}/{len(self._cells)}]", cell.name, status.state + reason, metric]
            print("  ".join(filter(None, parts)), flush=True)

    def _build_table(self) -> Table:
        counts = Counter(status.state for status in self._statuses.values())
        caption = ", ".join([*(f"{counts[state]} {state}" for state in ORDER if counts[state]), *self._estimate_time()])
        table = Table(caption=caption, caption_justify="left", box=None, pad_edge=False)
        table.add_column("cell", overflow="fold")
        table.add_column("status", overflow="fold")
        for name in ("step", "metric", "time"):
            table.add_column(name, justify="right")
        for cell in sorted(self._cells, key=lambda cell: ORDER.index(self._statuses[cell.name].state)):
            status = self._statuses[cell.name]
            step, metric = self._get_progress(cell)
            text = f"{status.state}: {status.reason}" if status.reason else status.state
            steps = f"{step}/{cell.config.train.steps}" if step else ""
            table.add_row(
                cell.name, escape(text), steps, metric, self._format_duration(cell), style=STYLES[status.state]
            )
        return table

    def _estimate_time(self) -> list[str]:
        """Return the time that all cells still need, if the steps since the first start allow an estimate."""
        steps = {cell.name: self._get_progress(cell)[0] for cell in self._cells}
        done = sum(steps[name] - start for name, start in list(self._start_steps.items()))
        unfinished = [cell for cell in self._cells if self._statuses[cell.name].state in (PENDING, RUNNING)]
        left = sum(cell.config.train.steps - steps[cell.name] for cell in unfinished)
        if done <= 0 or left <= 0:
            return []
        elapsed = time.monotonic() - min(list(self._start_times.values()))
        return [f"about {format_duration(elapsed * left / done)} left"]

    def _get_progress(self, cell: Cell) -> tuple[int, str]:
        """Return the last step and the last metric that a cell has logged."""
        state = self._statuses[cell.name].state
        if cell.name not in self._progress or state == RUNNING:
            self._progress[cell.name] = (0, "") if state == PENDING else self._logs[cell.name].read()
        return self._progress[cell.name]

    def _format_duration(self, cell: Cell) -> str:
        if cell.name not in self._start_times:
            return ""
        seconds = self._durations.get(cell.name, time.monotonic() - self._start_times[cell.name])
        return format_duration(seconds)
