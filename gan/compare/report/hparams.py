"""Event files for TensorBoard's HPARAMS tab: arm, seed and axis values of each cell, and the metrics to show.

TensorBoard reads the metrics from the scalars of the runs. `SummaryWriter.add_hparams` is not used, because each call
adds a file with another copy of the metrics. The event files here have fixed names: writing them again replaces them.
"""

import io
from collections.abc import Container, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] (generated)
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue] (generated)
from tensorboard.plugins.hparams.summary_v2 import Discrete, HParam, Metric, hparams_config_pb, hparams_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from gan.compare.csv_files import Row
from gan.compare.description import Description
from gan.compare.folder import GridFolder
from gan.compare.status import COMPLETED
from gan.compare.tags import LIPSCHITZ, get_metric_tags
from gan.run import folder as run_folder
from gan.runtime.files import write_atomically

FILE = "events.out.tfevents.hparams"
GRID_TIME = 1.0  # a constant creation time of the grid, so that equal contents are equal files


def write_hparams(folder: GridFolder, description: Description, rows: Sequence[Row], cells: Container[str]) -> None:
    """Write the event file of the grid, and of each of these `cells` that is completed and whose run folder exists.

    `rows` are those of results.csv.
    """
    hparams = get_hparams(description)
    configs = {name: folder.run_folder(name) / run_folder.CONFIG for name in hparams}
    if not any(config.exists() for config in configs.values()):
        return
    tags = [*get_metric_tags(rows), *(tag for tag in LIPSCHITZ if any(tag in row for row in rows))]
    keys = dict.fromkeys(key for values in hparams.values() for key in values)
    domains = {key: list(dict.fromkeys(values[key] for values in hparams.values() if key in values)) for key in keys}
    summary = hparams_config_pb(
        [HParam(key, Discrete(domain)) for key, domain in domains.items()],
        [Metric(tag, display_name=tag.partition("/")[2]) for tag in tags],
        time_created_secs=GRID_TIME,
    )
    _write_summary(folder.root / FILE, summary, GRID_TIME)
    for row in rows:
        config = configs[row["cell"]]
        if row["cell"] in cells and row["status"] in COMPLETED and config.exists():
            start_time = config.stat().st_mtime
            summary = hparams_pb(hparams[row["cell"]], row["cell"], start_time)
            _write_summary(config.with_name(FILE), summary, start_time)


def get_hparams(description: Description) -> dict[str, dict[str, str | float]]:
    """Return the arm, the seed and the axis values of each cell. An axis has numbers if all its values are numbers."""
    cells = description.cells.values()
    keys = dict.fromkeys(key for cell in cells for key in cell["axes"])
    axes = {key: [cell["axes"][key] for cell in cells if key in cell["axes"]] for key in keys}
    numeric = {key for key, values in axes.items() if all(map(_is_number, values))}
    return {
        name: {"arm": cell["arm"], "seed": float(cell["seed"])}
        | {key: float(value) if key in numeric else value for key, value in cell["axes"].items()}
        for name, cell in description.cells.items()
    }


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _write_summary(path: Path, summary: Summary, time: float) -> None:
    """Write an event file with this summary, unless the file has the same content already."""
    file = io.BytesIO()
    writer = RecordWriter(file)
    for event in (Event(wall_time=time, file_version="brain.Event:2"), Event(wall_time=time, summary=summary)):
        writer.write(event.SerializeToString(deterministic=True))
    if not path.exists() or path.read_bytes() != file.getvalue():
        write_atomically(path, lambda target: target.write(file.getvalue()))
