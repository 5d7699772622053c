"""The progress of an extraction of features, which may take hours."""

import time

from tqdm import tqdm

from gan.runtime.console import get_columns
from gan.runtime.distributed import rank

QUIET_S = 2  # a shorter extraction shows nothing in a terminal
LINE_S = 60  # before each line if the output is no terminal


class ExtractionProgress:
    """Shows `features of 50,000 real images: 12 %, 03:10 left`: in a terminal after each batch, else in a few lines.

    A terminal that is too narrow shows less of the title.

    Args:
        count: number of images.
        kind: what they are, such as "real images".
    """

    def __init__(self, count: int, kind: str):
        self._title, self._count = f"features of {count:,} {kind}", count
        self._bar = tqdm(bar_format="{desc}", leave=False, disable=None if rank() == 0 else True)
        self._start: tuple[int, float] | None = None
        self._next_line = 0.0

    def show(self, done: int) -> None:
        """Show the progress before a batch is extracted, when the features of `done` images are known."""
        now = time.monotonic()
        if self._start is None:
            self._start, self._next_line = (done, now), now + LINE_S
        done_before, start = self._start
        if done == done_before or now - start < QUIET_S:
            return
        left = (now - start) / (done - done_before) * (self._count - done)
        text = f": {100 * done // self._count} %, {tqdm.format_interval(left)} left"
        if not self._bar.disable:
            self._bar.set_description_str(self._title[: get_columns() - 1 - len(text)] + text)
        elif now >= self._next_line and rank() == 0:
            print(self._title + text, flush=True)
            self._next_line = now + LINE_S

    def close(self) -> None:
        """Remove the line from the terminal."""
        self._bar.close()
