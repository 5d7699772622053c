"""The data that the figures in the documentation are recomputed from, and the expressions of a `data` marker."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtr

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from gan.compare.csv_files import read_table  # noqa: E402
from gan.compare.report import statistics  # noqa: E402
from gan.compare.status import FINISHED  # noqa: E402
from gan.compare.tags import get_primary_metric  # noqa: E402

WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
NUMBER = re.compile(
    r"(?<![\w.])(?<!\w-)(?:(?<![\w)])[-−])?"
    r"(?:\d++/\d++|\d{1,3}(?:,\d{3})++(?:\.\d++)?|\d++(?:\.\d++)?+(?:e[-+]?\d++)?+)(?!\.\d|\w*[A-Z_]\w|-(?!fold)[a-z])"
    rf"|\b(?:{'|'.join(WORDS)})(?= of )"
)


class Study:
    """The results of a comparison in a folder. Arms are named as in results.csv, columns by their ending."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows = [row for row in read_table(folder / "results.csv") if row["status"] == FINISHED]
        self.read_curve = cache(lambda cell: read_table(folder / "curves" / f"{cell}.csv"))
        self.primary = get_primary_metric(self.rows) or ""
        self.tags = list(dict.fromkeys(tag for row in self.rows for tag in row))
        self.find_tag = cache(self._find_tag)
        self.permutation_p = cache(statistics.permutation_p)

    def arms(self, *without: str) -> list[str]:
        """Return the arms whose names contain none of these texts."""
        return [arm for arm in dict.fromkeys(row["arm"] for row in self.rows) if not any(t in arm for t in without)]

    def values(self, arm: str, column: str | None = None, *steps: float) -> list[float]:
        """Return a value for each seed: by default of the first metric, after the last step. None are an empty list.

        With steps, the values at these steps of each seed's curve.
        """
        rows = [row for row in self.rows if row["arm"] == arm]
        if not rows:
            raise ValueError(f"{self.folder.name} has no arm {arm}")
        if steps:
            lines = [line for row in rows for line in self.read_curve(row["cell"]) if line["step"] in steps]
            return [line[tag] for line in lines for tag in line if _is_named(tag, column or self.primary)]
        tag = self.primary if column is None else self.find_tag(column)
        return [row[tag] for row in rows if tag in row]

    def mean(self, arm: str, column: str | None = None, *steps: float) -> float | None:
        """Return the mean of the values, or None without any."""
        spread = statistics.compute_spread(self.values(arm, column, *steps))
        return spread and spread.mean

    def std(self, arm: str, column: str | None = None, *steps: float) -> float | None:
        """Return the sample standard deviation of the values."""
        spread = statistics.compute_spread(self.values(arm, column, *steps))
        return spread and spread.std

    def spread(self, arm: str, column: str | None = None, *steps: float) -> list[float | None]:
        """Return the mean and the standard deviation."""
        return [self.mean(arm, column, *steps), self.std(arm, column, *steps)]

    def p(self, arm: str, baseline: str, column: str | None = None) -> float:
        """Return the exact p-value of the difference of means."""
        return self.permutation_p(tuple(self.values(arm, column)), tuple(self.values(baseline, column)))

    def difference(self, arm: str, baseline: str) -> list[float]:
        """Return the difference of means of the first metric, and the ends of its bootstrap interval at 95 %."""
        values, reference = self.values(arm), self.values(baseline)
        return [np.mean(values) - np.mean(reference), *statistics.bootstrap_interval(values, reference)]

    def holm(self, arm: str, baseline: str, arms: Iterable[str]) -> float:
        """Return the p-value after Holm's correction for these arms."""
        return statistics.correct_holm({name: self.p(name, baseline) for name in arms if name != baseline})[arm]

    def holm_pairs(self, *pairs: list[str]) -> list[float]:
        """Return the p-value of each pair of arms after Holm's correction for these pairs."""
        corrected = statistics.correct_holm({" ".join(pair): self.p(*pair) for pair in pairs})
        return [corrected[" ".join(pair)] for pair in pairs]

    def gains(self, arm: str, baseline: str, column: str | None = None) -> list[float]:
        """Return the difference from the baseline for each seed."""
        pairs = zip(self.values(arm, column), self.values(baseline, column), strict=True)
        return [value - reference for value, reference in pairs]

    def spearman(self, arms: Iterable[str], column: str) -> tuple[float, float]:
        """Return the rank correlation of a column with the first metric over the means of arms, and its p-value."""
        names = list(arms)
        means = np.array([[self.mean(arm, column), self.mean(arm)] for arm in names], dtype=float).T
        ranks = np.argsort(np.argsort(means))  # the means have no ties
        r = float(np.corrcoef(ranks[0], ranks[1]).flat[1])
        freedom = len(names) - 2
        return r, float(2 * stdtr(freedom, -abs(r) * (freedom / (1 - r * r)) ** 0.5))

    def layers(self) -> list[str]:
        """Return the columns of the layers' norms."""
        return [tag for tag in self.rows[0] if "/layers/" in tag]

    def _find_tag(self, column: str) -> str:
        named = [tag for tag in self.tags if _is_named(tag, column)]
        if len(named) != 1:
            raise ValueError(f"{self.folder.name} has {len(named)} columns named {column}; expected one")
        return named[0]


def _is_named(tag: str, column: str) -> bool:
    return tag == column or tag.endswith(f"/{column}")


class Record:
    """The numbers in a JSON file, in a table (CSV), or in the stored output of a command."""

    def __init__(self, path: Path):
        text = path.read_text(encoding="utf-8")
        self.text = " ".join(text.split())  # as in a marker
        self.content = json.loads(text) if path.suffix == ".json" else None
        self.rows = read_table(path) if path.suffix == ".csv" else []

    def column(self, name: str) -> list[float]:
        """Return a column of a table."""
        return [row[name] for row in self.rows]

    def get(self, *keys: str) -> float:
        """Return the number at these keys, or the first number after these texts of an output or a page."""
        if self.content is None:
            entry = self.text
            for key in keys:
                _, found, entry = entry.partition(key)
                if not found:
                    raise ValueError(f"no entry {key}")
        else:
            entry = self.content
            for key in keys:
                entry = entry[key]
        return to_value(NUMBER.findall(entry)[0])[0] if isinstance(entry, str) else entry


@cache
def open_source(source: str) -> Study | Record:
    """Return the data of a folder of a comparison, or of a file."""
    path = ROOT / source
    return Study(path) if path.is_dir() else Record(path)


BUILTINS: dict[str, Callable] = {
    function.__name__: function
    for function in (abs, all, any, len, list, max, min, range, round, set, sorted, sum, tuple, zip)
}


def evaluate(source: str, expression: str, values: Mapping[str, Any]) -> Any:
    """Return the value of an expression.

    Its names are those of `values`, the methods of the source, `study`, `output`, two tests, and some of Python's.
    """
    opened = open_source(source) if source else None
    names = {name: getattr(opened, name) for name in dir(opened) if not name.startswith("_")}
    extra = {
        "study": lambda name: open_source(f"docs/studies/{name}"),
        "output": lambda name: open_source(f"docs/outputs/{name}"),
        "smallest_p": statistics.smallest_p,
        "correct_holm": statistics.correct_holm,
    }
    return eval(expression, {"__builtins__": BUILTINS, **names, **extra, **values})


def to_value(text: str) -> tuple[float, float]:
    """Return a written number and the unit of its last digit."""
    if text in WORDS:
        return WORDS[text], 1
    numerator, _, denominator = text.replace(",", "").replace("−", "-").partition("/")
    if denominator:
        return int(numerator) / int(denominator), 0
    decimal = Decimal(numerator)
    return float(decimal), 10.0 ** int(decimal.as_tuple().exponent)


def is_rounded(text: str, value: float) -> bool:
    """Return whether a number as it is written is this value, rounded."""
    number, unit = to_value(text)
    return abs(number - value) <= 0.5 * unit * (1 + 1e-6) + 1e-9 * abs(number)
