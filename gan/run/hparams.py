"""The event file of a run for TensorBoard's HPARAMS tab.

TensorBoard reads the metrics from the scalars of the run. `SummaryWriter.add_hparams` is not used, because each call
adds a file with another copy of the metrics. The event file here has a fixed name: writing it again replaces it.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] (generated)
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue] (generated)
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from gan.run.folder import CONFIG
from gan.runtime.files import write_atomically

FILE = "events.out.tfevents.0.hparams"
"""TensorBoard reads the files in the order of their names, and waits for more of the last one: not of this one"""

Value = str | float | bool
"""The value of a hyperparameter. TensorBoard shows numbers with decimals, so that an integer is better a string"""


def write_hparams(folder: Path, hparams: Mapping[str, Value], name: str, further: Sequence[Summary] = ()) -> None:
    """Write hyperparameters of the run in `folder`, which is shown as `name`, and further summaries.

    The file is not touched if it has this content already.
    """
    time = (folder / CONFIG).stat().st_mtime
    file = io.BytesIO()
    writer = RecordWriter(file)
    summaries = [hparams_pb(dict(hparams), name, time), *further]
    events = [Event(wall_time=time, file_version="brain.Event:2")]
    for event in (*events, *(Event(wall_time=time, summary=summary) for summary in summaries)):
        writer.write(event.SerializeToString(deterministic=True))
    path = folder / FILE
    if not path.exists() or path.read_bytes() != file.getvalue():
        write_atomically(path, lambda target: target.write(file.getvalue()))


def to_value(value: Any) -> Value:
    """Return a value of a config as that of a hyperparameter: lists, null, and integers become text."""
    return value if isinstance(value, str | float | bool) else "null" if value is None else str(value)
