"""Recompute the figures in the documentation: `python docs/figures.py` checks them and lists where they come from.

A marker, an HTML comment that is invisible when rendered, names the source of the numbers in its block (a paragraph, a
list item, a table, or a code block; no blank line is between the block and its marker). There are five kinds:

    <!-- data docs/studies/digits: 50.2 = mean("none"); 4.0 = std("none"); holds = mean("none") > mean("oni") -->
    <!-- output docs/outputs/first_run.txt -->                        the lines of the block are lines of this file
    <!-- tested tests/models/test_x.py::test_y -->                    this test of the suite contains the numbers
    <!-- not stored: the command, the hardware -->                    measured, but nothing here can repeat it
    <!-- constants: 600, 1e-3, 0.5 -->                                settings, formulas and limits, listed one by one
    <!-- quoted: the source -->                                       published by others

`data` recomputes each number by an expression (see `Study` and `Record` for its names) and compares at the precision
that is written. `table = [[...], ...]` recomputes all numbers in a table, row by row, without the first column.
`holds` is a statement that must be true. Several markers can share a block.

Every number in docs/studies, and elsewhere every number in a table and every decimal number, percentage, ratio ("3x",
"3 times") and number with a thousands separator, needs a marker. Names, versions, sizes such as 3x3, links and `code`
are not numbers. In a block with a `data` marker every number needs a source.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtr

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from gan.compare.report import statistics  # noqa: E402
from gan.compare.results import read_table  # noqa: E402
from gan.compare.status import FINISHED  # noqa: E402
from gan.compare.tags import get_primary_metric  # noqa: E402

PAGES = ("*.md", "docs/**/*.md")
GENERATED = ("report.md", "tables.md")  # reports of studies, which git ignores
STUDIES = Path("docs/studies")

MARKER = re.compile(r"<!--\s*(data|output|tested|not stored|constants|quoted)\b(.*?)-->", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
COMMAND = re.compile(r"\s*(?:python|pip|torchrun|tensorboard|make|[A-Z_]+=)")
FENCE = re.compile(r"^\s*```")
LIST_ITEM = re.compile(r"^\s*(?:[-*]|\d\.) ")
NO_NUMBERS = re.compile(
    r"`[^`]*`"  # code
    r"|!\[[^\]]*\]\([^)]*\)|\]\([^)]*\)|https?://\S+"  # images and the targets of links
    r"|\b(?:torch|PyTorch|Python|arXiv|issue|PCIe|NeurIPS|ICLR|ICML|CVPR|al\.,|[Vv]ersion) [\d.]+\b"  # versions, years
    r"|\b\d+ ?x ?\d+(?: ?x ?\d+)?\b"  # sizes
    r"|^\s*\d+\. "  # ordered lists
)
WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
NUMBER = re.compile(
    r"(?<![\w.])(?<!\w-)(?:(?<![\w)])[-−])?"
    r"(?:\d++/\d++|\d{1,3}(?:,\d{3})++(?:\.\d++)?|\d++(?:\.\d++)?+(?:e[-+]?\d++)?+)(?!\.\d|\w*[A-Z_]\w|-[a-z])"
    rf"|\b(?:{'|'.join(WORDS)})(?= of )"
)
RATIO = re.compile(r" ?%|x\b| times\b")


@dataclass(frozen=True)
class Block:
    """A paragraph, list item, table or code block with its markers. `line` is that of its beginning."""

    path: Path
    line: int
    text: str

    @property
    def is_code(self) -> bool:
        """Whether the block is a code block."""
        return any(FENCE.match(line) for line in self.text.splitlines())

    @property
    def is_program(self) -> bool:
        """Whether the block is a code block in a language, which is no output."""
        return bool(re.search(r"^\s*```\w", self.text, re.MULTILINE))

    @property
    def markers(self) -> list[tuple[str, str]]:
        """The kind and the content of each marker."""
        return [(kind, " ".join(content.split())) for kind, content in MARKER.findall(self.text)]

    def find_numbers(self, everything: bool) -> list[str]:
        """Return the numbers that need a source, or all numbers."""
        return [text for _, text, is_result in _find(self) if is_result or everything]

    def find_table_numbers(self) -> list[str]:
        """Return the numbers in the cells of a table."""
        return [text for in_table, text, _ in _find(self) if in_table]


def _find(block: Block) -> Iterator[tuple[bool, str, bool]]:
    """Yield each number of a block: whether it is in a table, the number, and whether it always needs a source."""
    lines = COMMENT.sub("", block.text).splitlines()
    for i, line in enumerate(lines):
        in_table = line.lstrip().startswith("|")
        if in_table:
            below = lines[i + 1] if i + 1 < len(lines) else ""
            if re.fullmatch(r"[|\s:-]+", line) or re.fullmatch(r"[|\s:-]+", below.strip() or "no table"):
                continue  # the header
            line = line.lstrip().removeprefix("|").partition("|")[2]
        if block.is_program or (block.is_code and COMMAND.match(line)):
            continue
        if block.is_code:
            for match in re.finditer(r"(?<![\w.,=/:\[-])-?\d+\.\d+(?:e[-+]?\d+)?(?![\w.]|-\w)", line):
                yield False, match[0], True
            continue
        line = NO_NUMBERS.sub(" ", line)
        for match in NUMBER.finditer(line):
            text = match[0]
            is_word = text in WORDS
            is_result = in_table or bool(re.search(r"[.,e]", text)) or bool(RATIO.match(line, match.end()))
            yield in_table, text, is_result and not is_word


def read_blocks(path: Path, text: str) -> list[Block]:
    """Split a page at blank lines and list items, except inside code blocks and comments."""
    blocks: list[Block] = []
    lines: list[str] = []
    start, in_code, in_comment = 1, False, False

    def close(next_line: int) -> None:
        nonlocal start
        if any(line.strip() for line in lines):
            blocks.append(Block(path, start, "\n".join(lines)))
        lines.clear()
        start = next_line

    for number, line in enumerate(text.splitlines(), 1):
        if not in_code and not in_comment and (not line.strip() or LIST_ITEM.match(line)):
            close(number)
        lines.append(line)
        in_code ^= bool(FENCE.match(line)) and not in_comment
        if not in_code:
            in_comment = line.rfind("<!--") > line.rfind("-->") or (in_comment and "-->" not in line)
    close(0)
    return blocks


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

    def values(self, arm: str, column: str | None = None) -> list[float]:
        """Return a value for each seed, of the first metric by default. None are an empty list."""
        rows = [row for row in self.rows if row["arm"] == arm]
        if not rows:
            raise ValueError(f"{self.folder.name} has no arm {arm}")
        tag = self.primary if column is None else self.find_tag(column)
        return [row[tag] for row in rows if tag in row]

    def mean(self, arm: str, column: str | None = None) -> float | None:
        """Return the mean over seeds, or None without values."""
        spread = statistics.compute_spread(self.values(arm, column))
        return spread and spread.mean

    def std(self, arm: str, column: str | None = None) -> float | None:
        """Return the sample standard deviation over seeds."""
        spread = statistics.compute_spread(self.values(arm, column))
        return spread and spread.std

    def spread(self, arm: str, column: str | None = None) -> list[float | None]:
        """Return the mean and the standard deviation."""
        return [self.mean(arm, column), self.std(arm, column)]

    def p(self, arm: str, baseline: str, column: str | None = None) -> float:
        """Return the exact p-value of the difference of means."""
        return self.permutation_p(tuple(self.values(arm, column)), tuple(self.values(baseline, column)))

    def holm(self, arm: str, baseline: str, arms: Iterable[str]) -> float:
        """Return the p-value after Holm's correction for these arms."""
        return statistics.correct_holm({name: self.p(name, baseline) for name in arms if name != baseline})[arm]

    def curve(self, arm: str, column: str, *steps: float) -> float | None:
        """Return the mean over seeds and steps of a value during training."""
        cells = [row["cell"] for row in self.rows if row["arm"] == arm]
        rows = [row for cell in cells for row in self.read_curve(cell)]
        spread = statistics.compute_spread(
            [row[tag] for row in rows if row["step"] in steps for tag in row if _is_named(tag, column)]
        )
        return spread and spread.mean

    def gains(self, arm: str, baseline: str, column: str | None = None) -> list[float]:
        """Return the difference from the baseline for each seed."""
        pairs = zip(self.values(arm, column), self.values(baseline, column), strict=True)
        return [value - reference for value, reference in pairs]

    def spearman(self, arms: Iterable[str], column: str) -> tuple[float, float]:
        """Return the rank correlation of a column with the first metric over the means of arms, and its p-value."""
        names = list(arms)
        means = [[self.mean(arm, column) for arm in names], [self.mean(arm) for arm in names]]
        r = float(np.corrcoef(np.argsort(np.argsort(means)))[0, 1])  # the means have no ties
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
        """Return the number at these keys, or the first number after a text of an output."""
        if self.content is None:
            _, found, entry = self.text.partition(keys[0])
            if not found:
                raise ValueError(f"no entry {keys[0]}")
        else:
            entry = self.content
            for key in keys:
                entry = entry[key]
        return _to_value(NUMBER.findall(entry)[0])[0] if isinstance(entry, str) else entry


@cache
def open_source(source: str) -> Study | Record:
    """Return the data of a folder of a comparison, or of a file."""
    path = ROOT / source
    return Study(path) if path.is_dir() else Record(path)


BUILTINS: dict[str, Callable] = {
    function.__name__: function
    for function in (abs, all, any, len, list, max, min, range, round, set, sorted, sum, zip)
}


def evaluate(source: str, expression: str) -> Any:
    """Return the value of an expression. Its names are the methods of the source, `study`, and some of Python's."""
    opened = open_source(source) if source else None
    names = {name: getattr(opened, name) for name in dir(opened) if not name.startswith("_")}
    extra = {"study": lambda name: open_source(f"docs/studies/{name}"), "smallest_p": statistics.smallest_p}
    return eval(expression, {"__builtins__": BUILTINS, **names, **extra})


def _to_value(text: str) -> tuple[float, float]:
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
    number, unit = _to_value(text)
    return abs(number - value) <= 0.5 * unit * (1 + 1e-6) + 1e-9 * abs(number)


def check_block(block: Block) -> list[str]:
    """Return what is wrong with the figures of a block."""
    kinds = [kind for kind, _ in block.markers]
    numbers = block.find_numbers(STUDIES in block.path.parents or "data" in kinds)
    problems: list[str] = []
    covered: set[str] = set()
    for kind, content in block.markers:
        if kind == "data":
            problems += _check_data(block, content, covered)
        elif kind == "output":
            problems += _check_output(block, content)
        elif kind == "tested":
            file, _, test = content.partition("::")
            if not (ROOT / file).exists() or f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8"):
                problems.append(f"there is no test {content}")
        elif kind == "constants":
            listed = NUMBER.findall(content.removeprefix(":"))
            covered |= set(listed)
            problems += [f"the constant {text} is not in the text" for text in listed if text not in numbers]
        elif not content.removeprefix(":").strip():
            problems.append(f"the marker '{kind}' names no source")
    if not {"output", "tested", "not stored", "quoted"} & set(kinds):
        problems += [f"{text} has no source" for text in numbers if text not in covered]
    return [f"{block.path}:{block.line}: {problem}" for problem in dict.fromkeys(problems)]


def _check_data(block: Block, content: str, covered: set[str]) -> list[str]:
    """Check the items of a `data` marker, and add the numbers that they recompute to `covered`."""
    source, _, items = content.partition(":")
    problems = []
    for item in filter(None, (item.strip() for item in items.split(";"))):
        name, separator, expression = item.partition(" = ")
        try:
            if not separator:
                raise ValueError("expected NUMBER = EXPRESSION")
            value = evaluate(source.strip(), expression)
            if name == "holds":
                if not value:
                    problems.append(f"does not hold: {expression}")
                continue
            table = name == "table"
            texts = block.find_table_numbers() if table else [name]
            values = list(_flatten(value))
            if not table and name not in block.find_numbers(everything=True):
                problems.append(f"{name} is not in the text")
            if len(texts) != len(values):
                problems.append(f"{item}: {len(values)} values for {len(texts)} numbers")
            problems += [
                f"{text} should be {value:.6g} ({expression if not table else 'table'})"
                for text, value in zip(texts, values, strict=False)
                if not is_rounded(text, value)
            ]
            covered |= set(texts)
        except Exception as error:  # an expression can raise anything
            problems.append(f"{item}: {error or type(error).__name__}")
    return problems


def _flatten(value: Any) -> Iterator[float]:
    """Yield the numbers in nested lists. None, an empty cell, is left out."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flatten(item)
    elif value is not None:
        yield float(value)


def _check_output(block: Block, source: str) -> list[str]:
    """Check that the lines of a code block are lines of a file, in this order. `...` stands for any lines or text."""
    path = ROOT / source
    if not path.is_file():
        return [f"there is no file {source}"]
    code = COMMENT.sub("", block.text).strip().splitlines()
    lines = iter(line.rstrip() for line in path.read_text(encoding="utf-8").splitlines())
    problems = []
    for line in (line.rstrip() for line in code if line.strip() and not FENCE.match(line)):
        pattern = re.compile(re.escape(line.strip()).replace(re.escape("..."), ".*"))
        if not any(pattern.fullmatch(stored.strip()) for stored in lines):
            problems.append(f"{source} has no line '{line}' here")
            break
    return problems


def list_pages() -> list[Path]:
    """Return the pages, relative to the root of the repository."""
    paths = {path for pattern in PAGES for path in ROOT.glob(pattern)}
    return sorted(path.relative_to(ROOT) for path in paths if path.name not in GENERATED)


def read_page(path: Path) -> list[Block]:
    """Return the blocks of a page."""
    return read_blocks(path, (ROOT / path).read_text(encoding="utf-8"))


def check_pages(paths: Iterable[Path]) -> list[str]:
    """Return what is wrong with the figures of pages."""
    return [problem for path in paths for block in read_page(path) for problem in check_block(block)]


def list_sources(paths: Iterable[Path], kinds: Iterable[str]) -> list[str]:
    """Return the markers of some kinds with their places."""
    return [
        f"{block.path}:{block.line}: {kind} {content}"
        for path in paths
        for block in read_page(path)
        for kind, content in block.markers
        if kind in kinds
    ]


if __name__ == "__main__":
    found = check_pages(list_pages())
    print("\n".join([*list_sources(list_pages(), ("output", "tested", "not stored", "quoted")), "", *found]))
    sys.exit(1 if found else 0)
