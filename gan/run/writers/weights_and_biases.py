"""Weights & Biases (https://wandb.ai)."""

# pyright: reportMissingImports=false
# (wandb is an optional dependency.)

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from gan.run.writers.base import WRITERS
from gan.run.writers.service import PROJECT, TIMEOUT_S, Histogram, Service
from gan.runtime.text import printable


@WRITERS.register("wandb")
class WandB(Service):
    """A run of Weights & Biases with the name of the run folder. Its files are in `wandb/` of the run folder.

    The environment variables of W&B choose everything else: `WANDB_API_KEY`, `WANDB_PROJECT`, `WANDB_ENTITY`,
    `WANDB_RUN_GROUP`, and `WANDB_MODE=offline`, which sends nothing until `wandb sync`. The summary of the run has the
    last value of each tag.
    """

    package: ClassVar[str | None] = "wandb"

    def open(self) -> None:
        """Begin or resume the run. RuntimeError without an API key, for which W&B would ask in the terminal."""
        os.environ.setdefault("WANDB_CACHE_DIR", str(self.folder.absolute() / "wandb" / "cache"))
        import wandb

        settings = wandb.Settings(silent=True, console="off", finish_timeout=TIMEOUT_S, finish_timeout_raises=True)
        if wandb.setup(settings).settings.mode == "online" and not wandb.login(prompt=False):
            raise RuntimeError("there is no API key; run wandb login, or set WANDB_MODE=offline")
        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=self.folder.name,
            id=self.id,
            resume="allow",
            dir=self.folder,
            config=self.read_config(),
            settings=settings,
        )

    def send_numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log numbers."""
        self._log(step, numbers)

    def send_image(self, tag: str, step: int, image: np.ndarray) -> None:
        """Log an image (H, W, C) uint8."""
        self._log(step, {tag: self._wandb.Image(image)})

    def send_histograms(self, step: int, histograms: Mapping[str, Histogram]) -> None:
        """Log histograms."""
        self._log(step, {tag: self._wandb.Histogram(np_histogram=pair) for tag, pair in histograms.items()})

    def finish(self, is_complete: bool) -> str:
        """Finish the run. Its state is `failed` if it was stopped."""
        self._run.finish(exit_code=0 if is_complete else 1)
        return f"W&B:          {self._run.url or f'wandb sync {printable(Path(self._run.dir).parent)}'}"

    def _log(self, step: int, values: Mapping) -> None:
        # W&B drops steps before its own. A resumed run may do the evaluation of the last step before it was stopped.
        self._run.log(dict(values), step=max(step, self._run.step))
