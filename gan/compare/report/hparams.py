"""What fills TensorBoard's HPARAMS tab: which arm, seed and values of the axes each cell has, and which metrics count.

Each cell's own run folder gets one more event file, the comparison's folder one for all of them. Their names are fixed,
so that writing them again replaces them. (`SummaryWriter.add_hparams` would make a run of its own, anew each time.) The
metrics themselves are the newest scalars of the cell's run.
"""

import io
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] (made by protobuf)
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.plugins.hparams import summary_v2 as hparams_api  # its `api` needs TensorFlow
from tensorboard.summary.writer.record_writer import RecordWriter

from gan.compare.description import Description
from gan.compare.folder import GridFolder
from gan.compare.outcome import ENDED
from gan.compare.results import read_table
from gan.compare.tags import LIPSCHITZ, metric_tags
from gan.run import folder as run_folder
from gan.runtime.files import write_atomically

FILE = "events.out.tfevents.hparams"
SINCE = 1.0  # seconds since 1970 at which the grid's own file says that it was made: its content alone tells it


def write_hparams(folder: GridFolder, description: Description) -> None:
    """Write the event files of all cells that have ended and whose run folder is there, and that of the grid."""
    rows = read_table(folder.results)
    hparams = {name: _hparams(description, cell) for name, cell in description.cells.items()}
    domains: dict[str, dict[str | float, None]] = {}
    for values in hparams.values():
        for key, value in values.items():
            domains.setdefault(key, {})[value] = None
    tags = [*metric_tags(rows), *(tag for tag in LIPSCHITZ if any(tag in row for row in rows))]
    summary = hparams_api.hparams_config_pb(
        [hparams_api.HParam(key, hparams_api.Discrete(list(values))) for key, values in domains.items()],
        [hparams_api.Metric(tag, display_name=tag.partition("/")[2]) for tag in tags],
        time_created_secs=SINCE,
    )
    if any((folder.run(name) / run_folder.CONFIG).exists() for name in hparams):
        _write(folder.root, summary, SINCE)
    for row in rows:
        config = folder.run(row["cell"]) / run_folder.CONFIG
        if row["status"] in ENDED and config.exists():
            began = config.stat().st_mtime
            _write(config.parent, hparams_api.hparams_pb(hparams[row["cell"]], row["cell"], began), began)


def _hparams(description: Description, cell: dict) -> dict[str, str | float]:
    """Return arm, seed and the value on each axis; numbers where all values of the axis are."""
    values: dict[str, str | float] = {"arm": cell["arm"], "seed": float(cell["seed"])}
    for key, value in cell["axes"].items():
        numeric = all(_is_number(other["axes"].get(key, "0")) for other in description.cells.values())
        values[key] = float(value) if numeric else value
    return values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _write(folder: Path, summary: Summary, time: float) -> None:
    """Write an event file that holds this summary; one that holds it already stays as it is."""
    file = io.BytesIO()
    writer = RecordWriter(file)
    writer.write(Event(wall_time=time, file_version="brain.Event:2").SerializeToString())
    event = Event(wall_time=time, summary=Summary.FromString(summary.SerializeToString()))
    writer.write(event.SerializeToString(deterministic=True))
    content = file.getvalue()
    path = folder / FILE
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, lambda target: target.write(content))
