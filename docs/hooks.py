"""What the site has beyond the files in docs/: the config reference, the contributors' pages, the shipped configs."""

import posixpath
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from classification.config import Config as ClassifierConfig  # noqa: E402
from gan.config import Config  # noqa: E402
from gan.options.help import reference  # noqa: E402

REFERENCE_MARK = "<!-- the keys -->"
SCHEMAS = {"config.md": Config, "config_classifier.md": ClassifierConfig}
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}  # in the repository -> on the site
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and the configs that lie outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the config reference, and let links that are right in the repository be right on the site."""
    if page.file.src_uri in SCHEMAS:
        markdown = markdown.replace(REFERENCE_MARK, reference(SCHEMAS[page.file.src_uri]))
    sources = {page: source for source, page in PAGES.items()}
    here = posixpath.dirname(sources.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def on_site(match: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(here, match["target"]))
        if (ROOT / target).is_dir():
            target = f"{target}/README.md"
            if not (ROOT / target).exists():
                return match["text"]  # a folder without a page: the site has no list of its files
        site = PAGES.get(target, target.removeprefix("docs/"))
        if files.get_file_from_path(site) is None and (ROOT / target).exists():
            return match["text"]  # source code, say, which the site does not have
        link = posixpath.relpath(site, posixpath.dirname(page.file.src_uri) or ".")
        return f"[{match['text']}]({link}{match['anchor'] or ''})"

    return LINK.sub(on_site, markdown)
