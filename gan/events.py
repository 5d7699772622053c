"""TensorBoard events: a service to a run, which goes on without it."""

import threading
import warnings
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class Events:
    """A `SummaryWriter` of a run folder that ends with a warning, once, when its file cannot be written.

    The numbers are in `metrics.jsonl` as well, and the samples in `samples/`.
    """

    def __init__(self, folder: Path, purge_step: int):
        self._writer: SummaryWriter | None = None
        self._usual_hook = threading.excepthook
        threading.excepthook = self._hook
        try:
            self._writer = SummaryWriter(str(folder), purge_step=purge_step)
        except Exception as error:  # OSError, and what TensorBoard makes of it
            self._give_up(error)

    def add(self, kind: str, *args: Any) -> None:
        """Call `add_KIND` of the writer."""
        if self._writer is not None:
            try:
                getattr(self._writer, f"add_{kind}")(*args)
            except Exception as error:  # what the writer's thread met with before
                self._give_up(error)

    def close(self) -> None:
        """Flush and close the file."""
        if self._writer is not None:
            try:
                self._writer.close()
            except Exception as error:
                self._give_up(error)
        self._writer = None
        threading.excepthook = self._usual_hook

    def _give_up(self, error: Exception) -> None:
        self._writer = None
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        warnings.warn(f"TensorBoard events cannot be written ({reason}); going on without them", stacklevel=4)

    def _hook(self, args: threading.ExceptHookArgs) -> None:
        # The writer's thread: its error comes again at the next call, to be said in one line.
        if not type(args.thread).__module__.startswith("tensorboard."):
            self._usual_hook(args)
