"""Print results.csv of the study as Markdown tables, arms by settings: python tables.py FOLDER."""

import sys
from pathlib import Path
from statistics import fmean

from classification.corruptions import CORRUPTIONS
from classification.summary import masks_gradients
from gan.compare.csv_files import Row, read_table
from gan.compare.report.statistics import compute_spread
from gan.compare.report.tables import format_spread
from gan.compare.status import FINISHED

SETTINGS = {
    "noise=0": "all data",
    "noise=0.2": "20 % noise",
    "noise=0.4": "40 % noise",
    "noise=0.6": "60 % noise",
    "data=0.3": "30 % of the data",
    "data=0.1": "10 % of the data",
}
FGSM, PGD = "metrics/accuracy_fgsm8", "metrics/accuracy_pgd8_20x1"
TEST_IMAGES = 360
QUANTITIES = {
    "Accuracy on test images (%)": lambda row: row["metrics/accuracy_test"],
    "Accuracy under FGSM, eps 8/255 (%)": lambda row: row[FGSM],
    "Accuracy under PGD, eps 8/255, 20 steps of 2/255 (%)": lambda row: row[PGD],
    **{
        f"Accuracy under {name.replace('_', ' ')}, mean over five severities (%)": (
            lambda row, name=name: row[f"metrics/accuracy_{name}"]
        )
        for name in CORRUPTIONS
    },
    "Accuracy on corrupted images, mean of the four above (%)": (
        lambda row: fmean(row[f"metrics/accuracy_{name}"] for name in CORRUPTIONS)
    ),
    "Certified Lipschitz bound (none: no bound)": lambda row: row["lipschitz/classifier/certified"],
    "Steepest slope found": lambda row: row["lipschitz/classifier/slope"],
    "Largest gradient of a logit at test images": lambda row: row["lipschitz/classifier/gradient_max"],
}


def format_tables(folder: Path) -> str:
    """Return one table per quantity, and the cells in which PGD is weaker than FGSM, as Markdown."""
    rows = [row for row in read_table(folder / "results.csv") if row["status"] == FINISHED]
    masked = [row["cell"] for row in rows if masks_gradients(row[FGSM], row[PGD], TEST_IMAGES)]
    return "\n\n".join(
        [
            "Mean ± sample standard deviation over seeds after the last step.",
            *(f"{caption}\n\n{to_table(rows, get)}" for caption, get in QUANTITIES.items()),
            "Cells in which the accuracy under PGD exceeds the accuracy under FGSM by more than two standard errors: "
            f"{', '.join(masked) or 'none'}.\n",
        ]
    )


def to_table(rows: list[Row], value) -> str:
    """Return a Markdown table of one quantity, with a row per arm and a column per setting."""
    arms = dict.fromkeys(row["arm"].rpartition(",")[0] for row in rows)
    lines = [["arm", *SETTINGS.values()], ["---", *["--:"] * len(SETTINGS)]]
    for arm in arms:
        cells = [[row for row in rows if row["arm"] == f"{arm},{setting}"] for setting in SETTINGS]
        spreads = [compute_spread([x for row in cell if (x := get_value(value, row)) is not None]) for cell in cells]
        lines.append([arm, *(format_spread(s, len(cell)) for s, cell in zip(spreads, cells, strict=True))])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def get_value(value, row: Row) -> float | None:
    """Return the quantity for one cell, or None if the cell has no such value."""
    try:
        return value(row)
    except KeyError:
        return None


if __name__ == "__main__":
    print(format_tables(Path(sys.argv[1])), end="")
