"""Recompute the figures in the documentation: `python docs/figures.py` checks them and lists where they come from.

A marker, an HTML comment that is invisible when rendered, names the source of the numbers in its block (a paragraph, a
list item, a table, or a code block; no blank line is between the block and its marker). There are six kinds:

    <!-- data docs/studies/digits/first: 50.2 = mean("none"); 4.0 = std("none"); holds = mean("none") > mean("oni") -->
    <!-- output docs/outputs/train_classifier.txt -->                 the lines are lines of this file: "$ COMMAND" and
                                                                      what it printed
    <!-- tested tests/models/test_x.py::test_y -->                    this test of the suite contains the numbers
    <!-- not stored: the command, the hardware -->                    measured, but nothing here can repeat it
    <!-- constants: 600, 1e-3, 0.5 -->                                settings, formulas and limits, listed one by one
    <!-- quoted: the source -->                                       published by others

`data` recomputes each number by an expression (see `Study` and `Record` for its names) and compares at the precision
that is written. `table = [[...], ...]` recomputes all numbers in a table, row by row, without the first column.
`holds` is a statement that must be true. `let NAME = EXPRESSION` names a value for the expressions that follow on the
page. Several markers can share a block. Beside a `data` marker, the others name
their numbers: `not stored (1.5, 20): the command`, `tested (1.16): ...`. A marker of several lines begins its line:
with text before it, its other lines would be Markdown.

Every number in docs/studies, and elsewhere every number in a table and every decimal number, percentage, ratio ("3x",
"3 times") and number with a thousands separator, needs a marker. Names, versions, sizes such as 3x3, links and `code`
are not numbers. In a block with a `data` marker every number needs a source.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from figure_sources import NUMBER, ROOT, WORDS, evaluate, is_rounded

PAGES = ("*.md", "docs/**/*.md")
GENERATED = ("report.md", "tables.md")  # reports of studies, which git ignores
STUDIES = Path("docs/studies")

MARKER = re.compile(r"<!--\s*(data|output|tested|not stored|constants|quoted)\b(.*?)-->", re.DOTALL)
SOURCE = re.compile(r"(?:\((?P<numbers>[^)]*)\))?:? *(?P<source>.*)")
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


def check_block(block: Block, names: dict[str, Any]) -> list[str]:
    """Return what is wrong with the figures of a block. `names` are those that the page has given to values so far."""
    kinds = [kind for kind, _ in block.markers]
    has_data = "data" in kinds
    numbers = block.find_numbers(STUDIES in block.path.parents or has_data)
    problems: list[str] = []
    covered: set[str] = set()
    for kind, content in block.markers:
        if kind == "data":
            problems += _check_data(block, content, covered, names)
            continue
        if kind == "output":
            problems += _check_output(block, content)
            covered |= set(numbers)
            continue
        parts = SOURCE.fullmatch(content)
        listed, source = (parts["numbers"], parts["source"]) if parts else (None, content)
        if kind == "constants":
            listed, source = source, "listed"
        elif kind == "tested" and not _is_test(source):
            problems.append(f"there is no test {source}")
        if not source:
            problems.append(f"the marker '{kind}' names no source")
        if listed is None and has_data:
            problems.append(f"beside a data marker, the marker '{kind}' must list its numbers in brackets")
        found = numbers if listed is None else NUMBER.findall(listed)
        written = block.find_numbers(everything=True)
        problems += [f"{text} of the marker '{kind}' is not in the text" for text in found if text not in written]
        covered |= set(found)
    if any(
        "\n" in marker[0] and _has_text_before(block.text, marker.start()) for marker in MARKER.finditer(block.text)
    ):
        problems.append("a marker of several lines must begin its line")
    problems += [f"{text} has no source" for text in numbers if text not in covered]
    return [f"{block.path}:{block.line}: {problem}" for problem in dict.fromkeys(problems)]


def _has_text_before(text: str, position: int) -> bool:
    return bool(text[:position].rpartition("\n")[2].strip())


def _is_test(name: str) -> bool:
    file, _, test = name.partition("::")
    path = ROOT / file
    return path.is_file() and f"def {test}(" in path.read_text(encoding="utf-8")


def _check_data(block: Block, content: str, covered: set[str], names: dict[str, Any]) -> list[str]:
    """Check the items of a `data` marker, and add what they recompute to `covered` and what they name to `names`."""
    source, _, items = content.partition(":")
    problems = []
    for item in filter(None, (item.strip() for item in items.split(";"))):
        name, separator, expression = item.partition(" = ")
        try:
            if not separator:
                raise ValueError("expected NUMBER = EXPRESSION")
            value = evaluate(source.strip(), expression, names)
            if name.startswith("let "):
                names[name.removeprefix("let ")] = value
                continue
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
    problems = [] if next(lines, "").startswith("$ ") else [f"the first line of {source} is not its command: $ ..."]
    for line in (line.rstrip() for line in code if line.strip() and not FENCE.match(line)):
        pattern = re.compile(re.escape(line.strip()).replace(re.escape("..."), ".*"))
        if not any(pattern.fullmatch(stored.strip()) for stored in lines):
            problems.append(f"{source} has no line '{line}' here")
            break
    return problems


def remove_markers(text: str) -> str:
    """Return a page without its markers."""
    lines = MARKER.sub("\0", text).split("\n")
    kept = [line for line in lines if "\0" not in line or line.strip(" \0")]
    return re.sub(r" *\0", "", "\n".join(kept))


def list_pages() -> list[Path]:
    """Return the pages, relative to the root of the repository."""
    paths = {path for pattern in PAGES for path in ROOT.glob(pattern)}
    return sorted(path.relative_to(ROOT) for path in paths if path.name not in GENERATED)


def read_page(path: Path) -> list[Block]:
    """Return the blocks of a page."""
    return read_blocks(path, (ROOT / path).read_text(encoding="utf-8"))


def check_pages(paths: Iterable[Path]) -> list[str]:
    """Return what is wrong with the figures of pages."""
    return [problem for path in paths for problem in check_blocks(read_page(path))]


def check_blocks(blocks: Iterable[Block]) -> list[str]:
    """Return what is wrong with the figures of the blocks of a page."""
    names: dict[str, Any] = {}
    return [problem for block in blocks for problem in check_block(block, names)]


def list_sources(paths: Iterable[Path], kinds: Iterable[str]) -> list[str]:
    """Return the markers of some kinds with their places."""
    return [
        f"{block.path}:{block.line}: {kind} {content.removeprefix(':').strip()}"
        for path in paths
        for block in read_page(path)
        for kind, content in block.markers
        if kind in kinds
    ]


if __name__ == "__main__":
    found = check_pages(list_pages())
    print("\n".join([*list_sources(list_pages(), ("output", "tested", "not stored", "quoted")), "", *found]))
    sys.exit(1 if found else 0)
