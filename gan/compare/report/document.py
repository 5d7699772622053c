"""A report as a list of blocks, rendered by the templates as Markdown or HTML, and its tables as LaTeX.

The HTML is a single file with embedded images. The text of the blocks is escaped in each format.
"""

import base64
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from gan.runtime.text import printable

MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Heading:
    """A heading. The title of the report has level 1."""

    kind: ClassVar = "heading"
    text: str
    level: int = 2


@dataclass(frozen=True)
class Contents:
    """Links to the headings of level 2, in HTML alone."""

    kind: ClassVar = "contents"


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text."""

    kind: ClassVar = "paragraph"
    text: str


@dataclass(frozen=True)
class Code:
    """A command, or a file with a title, which HTML folds."""

    kind: ClassVar = "code"
    text: str
    title: str = ""


@dataclass(frozen=True)
class Entry:
    """A field of a table. The best arm and small p-values are marked."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table. The first column has the names of the rows."""

    kind: ClassVar = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Entry]]


@dataclass(frozen=True)
class Picture:
    """A PNG file with a caption. HTML uses the SVG file of the same name if there is one."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Pictures, side by side if the page is wide enough."""

    kind: ClassVar = "gallery"
    pictures: Sequence[Picture]


Block = Heading | Contents | Paragraph | Code | Table | Gallery


def render_markdown(blocks: Sequence[Block], folder: Path) -> str:
    """Return the report as Markdown. The links to pictures are relative to `folder`."""
    return _environment.get_template("report.md.j2").render(blocks=blocks, folder=folder)


def render_html(blocks: Sequence[Block], title: str) -> str:
    """Return the report as an HTML file without references to other files."""
    return _environment.get_template("report.html.j2").render(blocks=blocks, title=title)


def render_latex(tables: Sequence[Table]) -> str:
    """Return the tables as LaTeX for the package booktabs."""
    return _latex_environment.get_template("tables.tex.j2").render(tables=tables)


def _escape_markdown(text: str) -> str:
    """Return text on one line in which Markdown interprets nothing. `_` is only special next to no letter or digit.

    Entities stand for characters that not all dialects, such as that of Python-Markdown, escape by a backslash.
    """
    text = printable(" ".join(text.split()))
    special = r"[\\`*\[\]]|_(?![^\W_])|(?<![^\W_])_"
    begin_of_block = r"^[#>]|^[+-](?= )|(?<=^\d)[.)](?= )"
    text = re.sub(f"{special}|{begin_of_block}", r"\\\g<0>", text)
    return re.sub(r"[<|~]|&(?=#?\w+;)", lambda match: f"&#{ord(match[0])};", text)


def _fence(text: str) -> str:
    """Return a Markdown code block. Its fence is longer than any run of backticks in the text."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def _get_link(path: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(path, folder)).as_posix(), safe="/,=")


def _embed(path: Path) -> str:
    """Return a data URI of the SVG file beside a PNG file, or of the PNG file itself."""
    drawing = path.with_suffix(".svg")
    path = drawing if drawing.exists() else path
    return f"data:{MEDIA_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "–": "--",
    "<": "$<$",
    ">": "$>$",
}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


_environment = Environment(
    loader=PackageLoader("gan.compare.report"),
    autoescape=select_autoescape(("html.j2",)),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_environment.filters |= {
    "markdown": _escape_markdown,
    "fence": _fence,
    "link": _get_link,
    "embed": _embed,
    "latex": _escape_latex,
}
_latex_environment = _environment.overlay(  # the default delimiters consist of LaTeX's braces
    block_start_string="<%", block_end_string="%>", variable_start_string="<<", variable_end_string=">>"
)
