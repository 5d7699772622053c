import base64
import io
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from PIL import Image

from gan.compare.__main__ import main


@pytest.fixture(autouse=True)
def keep_signal_handlers(monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *arguments: None)


class Links(HTMLParser):
    """The images and links of an HTML page."""

    def __init__(self, page: str):
        super().__init__()
        self.images: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "img":
            assert attributes["alt"]
            self.images.append(attributes["src"])
        self.links += [attributes[name] for name in ("href", "src") if name in attributes]


def test_html_report_embeds_all_images(grid):
    text = (grid / "report.html").read_text()
    page = Links(text)
    # 2 metrics, the first also over time, 2 of the network, 3 layers, real images, and a sample of each arm.
    assert len(page.images) == 3 + 2 + 3 + 1 + 2
    sections = [link for link in page.links if link.startswith("#")]
    assert sections
    assert all(f'id="{section[1:]}"' in text for section in sections)
    assert all(link.startswith("data:") for link in page.links if link not in sections)
    for source in page.images:
        kind, data = re.fullmatch(r"data:image/([a-z+]+);base64,(.*)", source).groups()
        content = base64.b64decode(data)
        if kind == "svg+xml":
            assert ElementTree.fromstring(content).tag.endswith("svg")
        else:
            with Image.open(io.BytesIO(content)) as picture:
                assert picture.width == 8 * 48 + 9 * 3
                assert len(picture.getcolors()) > 2
    assert 'name="viewport"' in text


def test_markdown_report_links_existing_images(grid):
    text = (grid / "report.md").read_text()
    links = re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)
    assert len(links) == 11
    for link in links:
        with Image.open(grid / link) as picture:
            picture.verify()
    for plot in (grid / "plots").glob("*.png"):
        assert plot.with_suffix(".svg").exists()


def test_report_has_the_command_and_claims_nothing_for_two_seeds(grid, small_config):
    text = (grid / "report.md").read_text()
    assert f"python -m gan.compare {small_config} --vary discriminator.normalization=none,conv_norm" in text
    assert re.search(r"Revision ([0-9a-f]{40}(-dirty)?|\d+\.\d+\.\d+); python 3\.\d+\.\d+, torch \d", text)
    assert re.search(r"The cells ran on: .+ \(\d+ cores\); number format: fp32\.", text)
    assert "2 arms, seeds 0, 1: 4 of 4 cells finished" in text
    assert "No significance is claimed for conv_norm" in text
    assert "permutation test" not in text
    assert re.search(r"\| conv_norm \| 2 \| \**[\d.]+ ± [\d.]+", text)


@pytest.mark.slow
def test_files_that_git_tracks_give_the_same_report(grid, tmp_path):
    tracked = tmp_path / "tracked"
    shutil.copytree(grid, tracked, ignore=shutil.ignore_patterns("cells", "logs", "plots", "report.*", "events.*"))
    assert main(["--report", str(tracked), "--latex"]) == 0
    for name in ("report.md", "report.html", "results.csv", "plots/lipschitz.svg"):
        assert (tracked / name).read_bytes() == (grid / name).read_bytes(), name
    assert "\\toprule" in (tracked / "tables.tex").read_text()
    assert not list(tracked.glob("events.*"))  # TensorBoard has no run to show
