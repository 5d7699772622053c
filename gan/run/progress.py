"""The progress of a run in the terminal."""

import sys
import time

from tqdm import tqdm


class Progress:
    """A tqdm bar in a terminal, plain lines elsewhere."""

    def __init__(self, start: int, steps: int):
        self._steps = steps
        self._start = start
        self._start_time = time.monotonic()
        self._shown: dict[str, str] = {}
        is_terminal = sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True) if is_terminal else None

    def step(self) -> None:
        """Count one training step."""
        if self._bar is not None:
            self._bar.update()

    def show(self, step: int, numbers: dict[str, float]) -> None:
        """Show the latest numbers by label; labels that are not given keep their previous value."""
        if not numbers:
            return
        self._shown |= {label: f"{value:.4g}" for label, value in numbers.items()}
        text = "  ".join(f"{label} {value}" for label, value in self._shown.items())
        if self._bar is not None:
            self._bar.set_postfix_str(text)
            return
        seconds_per_step = (time.monotonic() - self._start_time) / max(1, step - self._start)
        remaining = format_duration(seconds_per_step * (self._steps - step))
        print(f"step {step}/{self._steps}  {text}  {remaining} left")

    def warn(self, message: str) -> None:
        """Print a warning above the bar."""
        tqdm.write(f"warning: {message}", file=sys.stderr)

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


def format_duration(seconds: float) -> str:
    """Return a time as `m:ss` or `h:mm:ss`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
