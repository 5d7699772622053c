import base64
import importlib.resources
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path, PurePath

import markdown
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from gan.compare.report.document import (
    Code,
    Contents,
    Entry,
    Gallery,
    Heading,
    Paragraph,
    Picture,
    Table,
    render_html,
    render_latex,
    render_markdown,
)

ROOT = Path(__file__).parents[4]
DOCUMENT = [
    Heading("A & B", 1),
    Paragraph("x < y"),
    Table("50 % of a_b", ["arm", "kl ↓"], [[Entry("a,b"), Entry("1 ± 2", True)], [Entry("{c}"), Entry("–")]]),
]


class Page(HTMLParser):
    """The tags and the text of an HTML page. Unclosed tags are errors."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[str | None] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [value for _, value in attrs]
        if tag not in ("meta", "link", "img", "wbr"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_markdown(tmp_path):
    assert render_markdown(DOCUMENT, tmp_path) == (
        "# A & B\n\nx &#60; y\n\n50 % of a_b\n\n| arm | kl ↓ |\n| --- | --: |\n| a,b | **1 ± 2** |\n| {c} | – |\n"
    )


def test_markdown_of_code_and_pictures(tmp_path):
    pictures = Gallery([Picture(tmp_path / "plots" / f"{name}.png", name) for name in "ab"])
    assert render_markdown([Code("a\nb"), pictures], tmp_path) == (
        "```\na\nb\n```\n\n![a](plots/a.png)\n\na\n\n![b](plots/b.png)\n\nb\n"
    )


def test_html():
    page = render_html(DOCUMENT, "A & B")
    Page(page)
    assert "<h1>A &amp; B</h1>" in page
    assert '<td class="best">1 ± 2</td>' in page


def test_latex():
    latex = render_latex([DOCUMENT[2]])
    assert r"\caption{50 \% of a\_b}" in latex
    assert r"  a,b & \textbf{1 $\pm$ 2} \\" in latex
    assert r"\{c\} & -- \\" in latex


HOSTILE = [
    "<script>alert(1)</script>",
    "a & b &lt;",
    "x|y",
    "{{ 7 * 7 }}",
    "<% endfor %>",
    '"><img src=x>',
    "`*b*` _i_ [l](u)",
]


def markdown_in_docs(text: str) -> str:
    """Return the HTML of Python-Markdown, as in the documentation."""
    return markdown.markdown(text, extensions=["tables"])


def markdown_on_github(text: str) -> str:
    """Return the HTML of a dialect that is similar to that of GitHub."""
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)


@pytest.fixture
def hostile_document(tmp_path):
    """A document with a hostile string everywhere: in headings, paragraphs, code, tables, captions and file names."""
    Image.new("L", (1, 1)).save(tmp_path / "a (b) <c>.png")
    return [
        block
        for text in HOSTILE
        for block in (
            Heading(text),
            Paragraph(text),
            Code(text, title=text),
            Table(text, [text, "n"], [[Entry(text), Entry(text, True)]]),
            Gallery([Picture(tmp_path / "a (b) <c>.png", text)]),
        )
    ]


def test_html_shows_hostile_text_as_it_is(hostile_document):
    page = Page(render_html([Contents(), *hostile_document], "<b>"))
    assert "<b>" in page.texts
    assert "script" not in page.tags
    assert page.tags.count("img") == len(HOSTILE)
    for text in HOSTILE:
        assert page.texts.count(text) == 10  # link, h2, p, summary, pre, two captions, one header and two fields
        assert page.attributes.count(text) == 2  # the label of the table and the description of the picture


def test_markdown_shows_hostile_text_as_it_is(hostile_document, tmp_path):
    blocks = [block for block in hostile_document if not isinstance(block, Code)]
    for line in render_markdown(blocks, tmp_path).splitlines():
        assert line.count("|") in (0, 3)  # only a table of two columns has bars
    assert render_markdown([Code("a ``` b")], tmp_path) == "````\na ``` b\n````\n"
    assert "](a%20%28b%29%20%3Cc%3E.png)" in render_markdown(hostile_document, tmp_path)


MARKDOWN = [
    *("<", "<b>", "<b|i>", "<!-- x", "<http://a.b>", "<x@y.zz>", "&lt;", "&#60;", "|", "a|b|", "a\\|b", "\\", "a\\"),
    *(
        "# a",
        "- a",
        "+ a",
        "1. a",
        "> a",
        ">a",
        "__a__",
        "_a_",
        "a_b",
        "~~a~~",
        "*a",
        "``",
        "[a](b)",
        "![a](b)",
        "    a",
    ),
    *("a\nb", "a\n\n# b", "a\r\n| b |", "<a\nhref=x>", "\x1b[31m", "a\x07"),
]


@pytest.mark.parametrize("render", [markdown_in_docs, markdown_on_github])
def test_markdown_shows_hostile_text_in_both_dialects(render, tmp_path):
    for text in (*MARKDOWN, *HOSTILE):
        picture = Picture(tmp_path / "a.png", text)
        blocks = [Heading(text), Paragraph(text), Table(text, [text, "n"], [[Entry(text), Entry(text, True)]])]
        page = Page(render(render_markdown([*blocks, Gallery([picture])], tmp_path)))
        shown = " ".join(text.split()).replace("\x1b", r"\x1b").replace("\x07", r"\x07")
        texts = [line.strip() for line in page.texts if line.strip()]
        assert texts == [shown] * 4 + ["n"] + [shown] * 3  # h2, two paragraphs, the table, the caption of the picture
        assert page.tags.count("td") == 2, text


def test_latex_shows_hostile_text_as_it_is(hostile_document):
    text = render_latex([block for block in hostile_document if isinstance(block, Table)])
    for line in text.splitlines():
        assert len(re.findall(r"(?<!\\)&", line)) in (0, 1)  # only a row of two columns has a separator
    assert r"$<$script$>$alert(1)$<$/script$>$ & \textbf{" in text
    assert r"\caption{a \& b \&lt;}" in text
    assert r"\caption{x\textbar{}y}" in text
    assert r"\caption{\{\{ 7 * 7 \}\}}" in text
    assert r"\caption{$<$\% endfor \%$>$}" in text


def test_html_prefers_the_svg_file(tmp_path):
    Image.new("L", (1, 1)).save(tmp_path / "a.png")
    block = Gallery([Picture(tmp_path / "a.png", "a")])
    assert '<img class="pixels" alt="a" src="data:image/png;base64,' in render_html([block], "")
    (tmp_path / "a.svg").write_text("<svg/>")
    encoded = base64.b64encode(b"<svg/>").decode()
    assert f'<img alt="a" src="data:image/svg+xml;base64,{encoded}"' in render_html([block], "")


def test_templates_are_packaged():
    files = importlib.resources.files("gan.compare.report").joinpath("templates").iterdir()
    names = sorted(file.name for file in files)
    assert names == ["report.html.j2", "report.md.j2", "tables.tex.j2"]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["gan.compare.report"]
    assert all(any(PurePath("templates", name).match(pattern) for pattern in patterns) for name in names)


def test_every_color_follows_the_scheme_of_the_reader():
    style = re.search("<style>(.*)</style>", render_html(DOCUMENT, "title"), re.DOTALL)
    assert style is not None
    light, dark = (re.findall(r"(--\w+): #", text) for text in re.findall(r":root {(.*?)}", style[1], re.DOTALL))
    assert sorted(light) == sorted(dark)
    assert "@media (prefers-color-scheme: dark)" in style[1]
    rules = re.sub(r":root {.*?}", "", style[1], flags=re.DOTALL)
    assert set(re.findall("#[0-9a-f]+", rules)) <= {"#888", "#0000"}  # in the middle, and transparent
    assert set(re.findall(r"var\((--\w+)\)", rules)) == set(light)
