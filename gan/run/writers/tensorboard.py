"""TensorBoard event files in the run folder."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from gan.options.nodes import Loader
from gan.run.folder import CONFIG, RESUME_MAY_CHANGE
from gan.run.step_files import REAL, SAMPLES, find_step_files
from gan.run.writers.base import WRITERS, Writer, flatten
from gan.run.writers.tensorboard_tags import BOUNDS, LOG10, describe, get_name
from gan.runtime.text import printable

EVENTS, SUFFIX = "events.out.tfevents.", ".v2"  # earlier versions had no suffix, and the tags of metrics.jsonl
ROUNDING = 1e-5  # a smaller relative change is drawn as none: rounding noise would fill a chart


@WRITERS.register("tensorboard")
class TensorBoard(Writer):
    """Event files for `tensorboard --logdir RUN`.

    The tags have the names and descriptions of `tensorboard_tags`. A run that has no such event files, or only those of
    an earlier version, first writes again what it has: the numbers of `metrics.jsonl`, and the images in `samples/`.
    """

    def __init__(self, folder: Path, start: int, network: str, lines: Sequence[dict[str, Any]]):
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        has_events = any(folder.glob(f"{EVENTS}*{SUFFIX}"))
        has_old_names = not has_events and any(folder.glob(f"{EVENTS}[1-9]*"))
        self._network = network
        self._drawn: dict[str, float] = {}
        self._writer = SummaryWriter(str(folder), purge_step=start + 1, filename_suffix=SUFFIX)
        self._file: Any = self._writer.file_writer
        self._writer.add_custom_scalars(custom_scalars_layout(network))
        if (folder / CONFIG).exists():
            self._add_config(folder, start)
        for line in lines:
            if line["step"] <= start:
                tags = [tag for tag, value in line.items() if "/" in tag and value is not None]  # no counters
                numbers = self._smooth({tag: line[tag] for tag in tags})
                if not has_events:
                    self._add_numbers(line["step"], numbers)
        if not has_events:
            for step, path in find_step_files(folder / SAMPLES, ".png").items():
                if step <= start:
                    self.image(SAMPLES, step, read_png(path))
            if (real := folder / SAMPLES / REAL).is_file():
                self.image(f"{SAMPLES}/real", 0, read_png(real))
        if has_old_names:
            print(
                f"{printable(folder)}: TensorBoard shows the log so far under new names of the tags, and also under the"
                " old ones; remove the older event files to hide these"
            )

    def scalars(self, counters: Mapping[str, int], numbers: Mapping[str, float]) -> None:
        """Write numbers, and the logarithms of the Lipschitz numbers of Custom Scalars."""
        self._add_numbers(counters["step"], self._smooth(numbers))

    def image(self, tag: str, step: int, image: Tensor) -> None:
        """Write an image (C, H, W) uint8."""
        from torch.utils.tensorboard import summary

        self._add(tag, step, summary.image("", image, dataformats="CHW"))

    def histograms(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Write the distribution of each tensor."""
        from torch.utils.tensorboard import summary

        for tag, tensor in values.items():
            self._add(tag, step, summary.histogram("", tensor.numpy(), self._writer.default_bins))

    def close(self, is_complete: bool) -> None:
        """Flush and close the file."""
        self._writer.close()

    def _add_config(self, folder: Path, step: int) -> None:
        """Write the config as a text, and as hyperparameters what makes this run another one than others."""
        from gan.run.hparams import to_value, write_hparams

        text = (folder / CONFIG).read_text("utf-8")
        self._writer.add_text("config", f"```yaml\n{text}\n```", step)
        values = flatten(yaml.load(text, Loader)).items()
        hparams = {key: to_value(value) for key, value in values if not key.startswith(RESUME_MAY_CHANGE)}
        write_hparams(folder, hparams, folder.name)

    def _smooth(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Return numbers by tag, with the last one of the tag instead of one that differs by rounding noise."""
        smoothed = {}
        for tag, value in numbers.items():
            if not math.isclose(value, self._drawn.get(tag, math.nan), rel_tol=ROUNDING):  # not if one is NaN
                self._drawn[tag] = value
            smoothed[tag] = self._drawn[tag]
        return smoothed

    def _add_numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        from torch.utils.tensorboard import summary

        prefix = f"lipschitz/{self._network}"
        bounds = {name: numbers.get(f"{prefix}/{name}", 0.0) for name in BOUNDS}
        logarithms = {f"{prefix}/{LOG10}/{name}": math.log10(value) for name, value in bounds.items() if value > 0}
        for tag, value in {**numbers, **logarithms}.items():
            self._add(tag, step, summary.scalar("", value))

    def _add(self, tag: str, step: int, summary: Any) -> None:
        """Write a summary under the name of a tag, with its description.

        TensorBoard reads descriptions of summaries in its new form only, which `SummaryWriter` does not write.
        """
        from tensorboard.data_compat import migrate_value

        (value,) = summary.value
        value.tag = get_name(tag)
        value.metadata.summary_description = describe(tag)
        value.CopyFrom(migrate_value(value))
        self._file.add_summary(summary, step)


def read_png(path: Path) -> Tensor:
    """Return an image file as (3, H, W) uint8."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def custom_scalars_layout(network: str) -> dict:
    """Return the layout of TensorBoard's Custom Scalars tab: certified and observed Lipschitz numbers in one chart."""
    prefix = get_name(f"lipschitz/{network}")
    bounds = [f"^{prefix}/{LOG10}/{name}$" for name in BOUNDS]
    return {
        "Lipschitz": {
            f"{network}: certified above, observed below (log10)": ["Multiline", bounds],
            f"{network}: norm of each layer": ["Multiline", [f"^{prefix}/layers/"]],
            f"{network}: stable rank of each layer": ["Multiline", [f"^{prefix}/stable_rank/"]],
        }
    }
