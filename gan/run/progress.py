"""The progress of a run in the terminal."""

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

from gan.runtime.console import get_columns

MIN_BAR, MAX_BAR = 5, 20  # characters


class Progress:
    """In a terminal a bar below a line for each evaluation, plain lines elsewhere.

    The line of the bar has the numbers that the width of the terminal has room for, metrics first.
    """

    def __init__(self, start: int, steps: int):
        self._steps = steps
        self._start = start
        self._start_time = time.monotonic()
        self._shown: dict[str, str] = {}
        self._bar = tqdm(total=steps, initial=start, unit="step") if sys.stderr.isatty() else None
        self._draw()

    def step(self) -> None:
        """Count one training step."""
        if self._bar is not None:
            self._bar.ncols = get_columns()
            self._bar.update()

    def show(self, step: int, numbers: Mapping[str, float], metrics: Mapping[str, float]) -> None:
        """Show the latest numbers by label; labels that are not given keep their previous value.

        `metrics` are all metrics of an evaluation, of which `numbers` has some.
        """
        new, evaluated = ({label: f"{value:.4g}" for label, value in part.items()} for part in (numbers, metrics))
        if not new and not evaluated:
            return
        if self._bar is None:
            self._shown |= new
            seconds_per_step = (time.monotonic() - self._start_time) / max(1, step - self._start)
            remaining = format_duration(seconds_per_step * (self._steps - step))
            print("  ".join([f"step {step}/{self._steps}", *join(self._shown), f"{remaining} left"]))
            return
        if evaluated:
            spent = format_duration(time.monotonic() - self._start_time)
            tqdm.write("  ".join([f"step {step}/{self._steps}", *join(evaluated), spent]), file=sys.stdout)
        first = {label: text for label, text in new.items() if label in evaluated}
        self._shown = first | self._shown | new
        self._draw()

    def warn(self, message: str) -> None:
        """Print a warning above the bar."""
        tqdm.write(f"warning: {message}", file=sys.stderr)

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def _draw(self) -> None:
        if self._bar is None:
            return
        self._bar.ncols = get_columns()
        longest = len(f"{self._steps}/{self._steps} [00:00:00<00:00:00]")
        room = self._bar.ncols - 1 - longest
        text = ""
        for part in join(self._shown):
            if len(part) + 2 > room:
                break
            room -= len(part) + 2
            text += f"  {part}"
        bar = f" {{bar:{min(MAX_BAR, room - 1)}}}" if room > MIN_BAR else ""
        self._bar.bar_format = f"{{n_fmt}}/{{total_fmt}} [{{elapsed}}<{{remaining}}]{bar}{{desc}}"
        self._bar.set_description_str(text)


def join(numbers: Mapping[str, str]) -> list[str]:
    """Return each label with its number."""
    return [f"{label} {value}" for label, value in numbers.items()]


def format_duration(seconds: float) -> str:
    """Return a time as `m:ss` or `h:mm:ss`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
