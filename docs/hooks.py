"""MkDocs hook: adds the config reference, files from outside docs/, and the studies' reports to the site; formulas."""

import contextlib
import hashlib
import html
import os
import posixpath
import re
import runpy
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from figures import remove_markers  # noqa: E402

from benchmarks.gpu.results import format_page  # noqa: E402
from classification.config import Config as ClassifierConfig  # noqa: E402
from gan.compare.__main__ import run as run_compare  # noqa: E402
from gan.config import Config  # noqa: E402
from gan.options.help import reference  # noqa: E402

REFERENCE_MARK = "<!-- the keys -->"
SCHEMAS = {"config.md": Config, "config_classifier.md": ClassifierConfig}
GPU_MARK = "<!-- the GPU tables -->"
GPU_RESULTS = ROOT / "docs" / "benchmarks"  # one JSON file for each GPU, written by `make gpu`
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}  # path in the repository -> on the site
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")

FORMULA = re.compile(r'<(?:span|div) class="arithmatex">\\(?P<kind>[(\[])(?P<tex>.*?)\\[)\]]</(?:span|div)>', re.DOTALL)

STUDIES = ROOT / "docs" / "studies"
REPORTS = ROOT / "build" / "studies"  # outside docs/, so that a build does not change the source tree
REPORT_INPUTS = ("grid.json", "results.csv", "curves/*", "samples/*", "tables.py")
REPORT_OUTPUTS = ("report.md", "report.html", "tables.md", "plots/*.png")
REPORT_LINKS = {"report.md": "tables and plots", "report.html": "one HTML file", "tables.md": "arms by settings"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and configs that lie outside docs/, and the generated reports of the studies."""
    added = {page: ROOT / source for source, page in PAGES.items()}
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        added[path.relative_to(ROOT).as_posix()] = path
    for study in sorted(path.parent for path in STUDIES.rglob("grid.json")):
        for path in _glob(build_report(study), REPORT_OUTPUTS):
            added[f"studies/{path.relative_to(REPORTS).as_posix()}"] = path
    for uri, path in added.items():
        if (in_docs := files.get_file_from_path(uri)) is not None:
            files.remove(in_docs)  # a figure kept in git, or a report written in place: the generated file is newer
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def build_report(study: Path) -> Path:
    """Write the report of a study below build/ and return its folder.

    The report is written again only if the study's data, the code of the report, or matplotlib has changed.
    """
    report = REPORTS / study.relative_to(STUDIES)
    inputs = _glob(study, REPORT_INPUTS)
    key = hashlib.sha256(version("matplotlib").encode())
    for path in [*inputs, *_glob(ROOT / "gan" / "compare", ("**/*.py", "**/*.j2"))]:
        key.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    stamp = report / "inputs.sha256"  # written last, so that an interrupted build is repeated
    if stamp.exists() and stamp.read_text() == key.hexdigest():
        return report

    shutil.rmtree(report, ignore_errors=True)
    for path in inputs:
        copy = report / path.relative_to(study)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    with open(os.devnull, "w") as devnull, contextlib.redirect_stdout(devnull):
        run_compare(["--report", str(report)])
    if (report / "tables.py").exists():
        module = runpy.run_path(str(report / "tables.py"))
        (report / "tables.md").write_text(module["format_tables"](report), encoding="utf-8")
    stamp.write_text(key.hexdigest())
    return report


def _glob(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Return the files in a folder that match any of the patterns, in a fixed order."""
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert what is generated: the config reference, GPU tables, links to a study's report. Adapt relative links.

    The markers of figures are removed: Python-Markdown would end a list at a comment.
    """
    markdown = remove_markers(markdown)
    uri = page.file.src_uri
    if uri in SCHEMAS:
        markdown = markdown.replace(REFERENCE_MARK, reference(SCHEMAS[uri]))
    if uri == "benchmarks.md":
        markdown = markdown.replace(GPU_MARK, format_page(GPU_RESULTS))
    folder, name = posixpath.split(uri)
    if posixpath.dirname(folder) == "studies" and name == "README.md":
        title, _, body = markdown.partition("\n")
        markdown = f"{title}\n\nFull report: {_link_reports(folder, files)}\n{body}"
    sources = {page: source for source, page in PAGES.items()}
    return LINK.sub(lambda link: _adapt_link(link, sources.get(uri, f"docs/{uri}"), uri, files), markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Convert the formulas, which Markdown has marked, to MathML, which browsers show without a script or a font."""

    def convert_formula(formula: re.Match) -> str:
        mathml = convert(html.unescape(formula["tex"]).strip(), display="inline" if formula["kind"] == "(" else "block")
        if "\\" in mathml:
            raise PluginError(f"{page.file.src_uri}: latex2mathml does not know a command in {formula['tex'].strip()}")
        return mathml

    return FORMULA.sub(convert_formula, content)


def _link_reports(folder: str, files: Files) -> str:
    """Return links to the reports of the studies in a folder of the site and in the folders below it."""
    reports = [posixpath.relpath(uri, folder) for uri in files.src_uris if uri.startswith(f"{folder}/")]
    studies = sorted({posixpath.dirname(path) for path in reports if posixpath.basename(path) in REPORT_LINKS})
    links = []
    for study in studies:
        found = {posixpath.join(study, file): text for file, text in REPORT_LINKS.items()}
        name = f"{study}: " if study else ""
        links.append(name + " · ".join(f"[{text}]({path})" for path, text in found.items() if path in reports))
    return "; ".join(links)


def _adapt_link(link: re.Match, source: str, uri: str, files: Files) -> str:
    """Return a link of the file `source` in the repository as its page `uri` needs it, or its text alone if the site
    does not have the target.
    """
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["target"]))
    if (ROOT / target).is_dir():
        target = f"{target}/README.md"
        if not (ROOT / target).exists():
            return link["text"]  # a folder without a page
    site = PAGES.get(target, target.removeprefix("docs/"))
    if files.get_file_from_path(site) is None and (ROOT / target).exists():
        return link["text"]  # for example source code
    path = posixpath.relpath(site, posixpath.dirname(uri) or ".")
    return f"[{link['text']}]({path}{link['anchor'] or ''})"
