"""TensorBoard's HPARAMS tab of a comparison: arm, seed and axis values of each cell, and the metrics to show.

They replace the config in the event file of the cell's run. The first cell has the list of the metrics, too, because a
file in the folder of the comparison would be shown as an empty run.
"""

from collections.abc import Sequence

from tensorboard.plugins.hparams.summary_v2 import Discrete, HParam, Metric, hparams_config_pb

from gan.compare.csv_files import Row
from gan.compare.description import Description
from gan.compare.folder import GridFolder
from gan.compare.status import COMPLETED
from gan.compare.tags import LIPSCHITZ, get_metric_tags
from gan.run import hparams as run_hparams
from gan.run.folder import CONFIG
from gan.run.writers.tensorboard_tags import get_name

GRID_TIME = 1.0  # a constant creation time of the grid, so that equal contents are equal files


def write_hparams(folder: GridFolder, description: Description, rows: Sequence[Row]) -> None:
    """Write the event file of each cell that is completed and whose run folder exists.

    `rows` are those of results.csv.
    """
    (folder.root / run_hparams.FILE).unlink(missing_ok=True)  # of an earlier version
    hparams = get_hparams(description)
    tags = [*get_metric_tags(rows), *(tag for tag in LIPSCHITZ if any(tag in row for row in rows))]
    keys = dict.fromkeys(key for values in hparams.values() for key in values)
    domains = {key: list(dict.fromkeys(values[key] for values in hparams.values() if key in values)) for key in keys}
    grid = hparams_config_pb(
        [HParam(key, Discrete(domain)) for key, domain in domains.items()],
        [Metric(get_name(tag), display_name=tag.partition("/")[2]) for tag in tags],
        time_created_secs=GRID_TIME,
    )
    runs = {row["cell"]: folder.run_folder(row["cell"]) for row in rows if row["status"] in COMPLETED}
    written = [name for name, run in runs.items() if (run / CONFIG).exists()]
    for name in written:
        run_hparams.write_hparams(runs[name], hparams[name], name, [grid] if name == written[0] else [])


def get_hparams(description: Description) -> dict[str, dict[str, run_hparams.Value]]:
    """Return the arm, the seed and the axis values of each cell.

    An axis has numbers if all its values are numbers. The seed is text: TensorBoard shows numbers with decimals.
    """
    cells = description.cells.values()
    keys = dict.fromkeys(key for cell in cells for key in cell["axes"])
    axes = {key: [cell["axes"][key] for cell in cells if key in cell["axes"]] for key in keys}
    numeric = {key for key, values in axes.items() if all(map(_is_number, values))}
    return {
        name: {"arm": cell["arm"], "seed": str(cell["seed"])}
        | {key: float(value) if key in numeric else value for key, value in cell["axes"].items()}
        for name, cell in description.cells.items()
    }


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
