"""What the person at the terminal sees while a run goes on."""

import sys
import time

from tqdm import tqdm


class Progress:
    """A tqdm bar on a terminal, plain lines elsewhere."""

    def __init__(self, start: int, steps: int):
        self.steps = steps
        self._first = start
        self._began = time.monotonic()
        self._shown: dict[str, str] = {}
        terminal = sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True) if terminal else None

    def step(self) -> None:
        """Count one generator update."""
        if self._bar is not None:
            self._bar.update()

    def show(self, step: int, numbers: dict[str, float]) -> None:
        """Show the newest numbers by short name; those not given keep what they showed before."""
        self._shown |= {name: f"{value:.4g}" for name, value in numbers.items()}
        text = "  ".join(f"{name} {value}" for name, value in self._shown.items())
        if self._bar is not None:
            self._bar.set_postfix_str(text)
            return
        done = max(1, step - self._first)
        left = (time.monotonic() - self._began) / done * (self.steps - step)
        print(f"step {step}/{self.steps}  {text}  {_clock(left)} left", flush=True)

    def warn(self, message: str) -> None:
        """Show a line that stays, above the bar."""
        tqdm.write(f"warning: {message}", file=sys.stderr)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"
