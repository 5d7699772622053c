"""A report as a list of blocks, written as Markdown, as one self-contained HTML file, and its tables as LaTeX."""

import base64
import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Heading:
    """The title of what follows; level 1 is the report's own."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Text, plain."""

    text: str


@dataclass(frozen=True)
class Code:
    """Text to copy."""

    text: str


@dataclass(frozen=True)
class Entry:
    """A field of a table; the best of its column is marked."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of fields under a header; the first column names the row."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Entry]]


@dataclass(frozen=True)
class Picture:
    """An image file (PNG, with an SVG of the same name beside it or not) and what it shows."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side, as many as the width allows."""

    pictures: Sequence[Picture]


Block = Heading | Paragraph | Code | Table | Gallery


def to_markdown(blocks: Sequence[Block], folder: Path) -> str:
    """Return the report as Markdown, with pictures linked relative to `folder`."""
    return "\n\n".join(_markdown(block, folder) for block in blocks) + "\n"


def to_html(blocks: Sequence[Block], title: str) -> str:
    """Return the report as one HTML file that needs no other."""
    body = "\n".join(_html(block) for block in blocks)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""


def to_latex(tables: Sequence[Table]) -> str:
    """Return the tables in the style of the package booktabs."""
    return "% needs \\usepackage{booktabs}\n\n" + "\n\n".join(_latex(table) for table in tables) + "\n"


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 76rem; margin: 0 auto;
  padding: 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; } p { max-width: 48rem; }
.scroll { overflow-x: auto; margin: .4rem 0 1rem; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #e4e4e4; }
thead th { border-bottom: 2px solid #888; vertical-align: bottom; }
tr > :first-child { position: sticky; left: 0; background: #fff; min-width: 5rem; text-align: left;
  font-weight: normal; white-space: normal; }
td.text { text-align: left; white-space: normal; } .best { font-weight: 700; background: #e9f3e6; }
.gallery { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
figure { margin: 0; } img { width: 100%; height: auto; display: block; } img.pixels { image-rendering: pixelated; }
figcaption { font-size: .9rem; color: #555; margin-top: .3rem; }
@media (max-width: 30rem) {
  table { font-size: .8rem; } th, td { padding: .3rem .4rem; }
  tr > :first-child { max-width: 9rem; overflow-wrap: break-word; }
}
pre { background: #f5f5f5; padding: .8rem; font-size: .85rem; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def _markdown(block: Block, folder: Path) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return text
        case Code(text):
            return f"```\n{text}\n```"
        case Table():
            return _markdown_table(block)
        case Gallery(pictures):
            return "\n\n".join(
                f"![{picture.caption}]({Path(os.path.relpath(picture.path, folder)).as_posix()})\n\n{picture.caption}"
                for picture in pictures
            )


def _markdown_table(table: Table) -> str:
    rows = [[f"**{entry.text}**" if entry.best else entry.text for entry in row] for row in table.rows]
    lines = [table.header, ["---", *["--:"] * (len(table.header) - 1)], *rows]
    return "\n".join([f"{table.caption}\n", *("| " + " | ".join(line) + " |" for line in lines)])


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Code(text):
            return f"<pre>{html.escape(text)}</pre>"
        case Table():
            return _html_table(block)
        case Gallery(pictures):
            return f'<div class="gallery">{"".join(map(_html_picture, pictures))}</div>'


def _html_table(table: Table) -> str:
    header = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in table.header)
    rows = []
    for name, *entries in table.rows:
        fields = "".join(f"<td{_class(entry)}>{html.escape(entry.text)}</td>" for entry in entries)
        label = html.escape(name.text).replace(",", ",<wbr>")  # where a narrow screen may break an arm's name
        rows.append(f'<tr><th scope="row">{label}</th>{fields}</tr>')
    caption = html.escape(table.caption)
    return (
        f'<figure><figcaption>{caption}</figcaption><div class="scroll"><table aria-label="{caption}">'
        f"<thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></figure>"
    )


def _class(entry: Entry) -> str:
    return ' class="best"' if entry.best else "" if len(entry.text) < 30 else ' class="text"'


def _html_picture(picture: Picture) -> str:
    """Return a figure with the image inside the page: the drawing where there is one, else the pixels."""
    drawing = picture.path.with_suffix(".svg")
    path = drawing if drawing.exists() else picture.path
    data = base64.b64encode(path.read_bytes()).decode()
    style = "" if path.suffix == ".svg" else ' class="pixels"'
    caption = html.escape(picture.caption)
    return (
        f'<figure><img{style} alt="{caption}" src="data:{TYPES[path.suffix]};base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _latex(table: Table) -> str:
    def row(entries: Sequence[str]) -> str:
        return "  " + " & ".join(entries) + r" \\"

    body = [
        row([f"\\textbf{{{_escape(entry.text)}}}" if entry.best else _escape(entry.text) for entry in entries])
        for entries in table.rows
    ]
    lines = [
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{_escape(table.caption)}}}",
        f"\\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        row([_escape(text) for text in table.header]),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "–": "--",
    "<": "$<$",
    ">": "$>$",
}


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
