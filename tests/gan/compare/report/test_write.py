import base64
import io
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from PIL import Image

from gan.compare.__main__ import main
from gan.compare.description import Description
from gan.compare.report.document import Entry, Heading, Paragraph, Table, to_html, to_latex, to_markdown
from gan.compare.report.plots import BLACK, GRAY, choose_colors
from gan.compare.report.write import _panels, tables
from gan.compare.results import MAX_ROWS, curve, read_table, seconds_per_step, write_table
from gan.compare.tags import higher_is_better


@pytest.fixture(autouse=True)
def same_signals(monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *arguments: None)


class Page(HTMLParser):
    """The images and links of an HTML page; unclosed tags are errors."""

    def __init__(self, text: str):
        super().__init__()
        self.images: list[str] = []
        self.links: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in ("meta", "link", "img", "wbr"):
            self._open.append(tag)
        if tag == "img":
            assert attributes["alt"]
            self.images.append(attributes["src"])
        self.links += [attributes[name] for name in ("href", "src") if name in attributes]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


def test_the_html_report_holds_all_its_pictures_and_needs_no_other_file(grid):
    page = Page((grid / "report.html").read_text())
    # 5 metrics, 2 of the network, 3 layers, and a sample of each arm.
    assert len(page.images) == 5 + 2 + 3 + 2
    assert all(link.startswith("data:") for link in page.links)
    for source in page.images:
        kind, data = re.fullmatch(r"data:image/([a-z+]+);base64,(.*)", source).groups()
        content = base64.b64decode(data)
        if kind == "svg+xml":
            assert ElementTree.fromstring(content).tag.endswith("svg")
        else:
            with Image.open(io.BytesIO(content)) as picture:
                assert picture.width == 8 * 48 + 9 * 3
                assert len(picture.getcolors()) > 2
    assert 'name="viewport"' in (grid / "report.html").read_text()


def test_the_markdown_report_links_pictures_that_are_there(grid):
    text = (grid / "report.md").read_text()
    links = re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)
    assert len(links) == 12
    for link in links:
        with Image.open(grid / link) as picture:
            picture.verify()
    for plot in (grid / "plots").glob("*.png"):
        assert plot.with_suffix(".svg").exists()


def test_the_report_says_what_was_done_and_claims_nothing_of_two_seeds(grid, small_config):
    text = (grid / "report.md").read_text()
    assert f"python -m gan.compare {small_config} --vary discriminator.normalization=none,conv_norm" in text
    assert re.search(r"Revision ([0-9a-f]{40}(-dirty)?|\d+\.\d+\.\d+); python 3\.\d+\.\d+, torch \d", text)
    assert re.search(r"The cells ran on: .+ \(\d+ cores\)", text)
    assert "2 arms, seeds 0, 1: 4 of 4 cells finished" in text
    assert "No significance is claimed for conv_norm" in text
    assert "permutation test" not in text
    assert re.search(r"\| conv_norm \| 2 \| \**[\d.]+ ± [\d.]+", text)


def test_what_git_keeps_gives_the_same_report(grid, tmp_path):
    kept = tmp_path / "kept"
    shutil.copytree(grid, kept, ignore=shutil.ignore_patterns("cells", "logs", "plots", "report.*", "events.*"))
    assert main(["--report", str(kept), "--latex"]) == 0
    for name in ("report.md", "report.html", "results.csv", "plots/lipschitz.svg"):
        assert (kept / name).read_bytes() == (grid / name).read_bytes(), name
    assert "\\toprule" in (kept / "tables.tex").read_text()
    assert not list(kept.glob("events.*")), "there is no run for TensorBoard to show"


def rows_of(values: dict[str, list[float | str]], tag: str = "metrics/fd_digits10k_test") -> list[dict]:
    """Rows of results.csv: a number is the metric of a finished cell, a word the status of another."""
    return [
        {"cell": f"{arm}-seed{seed}", "arm": arm, "seed": float(seed), "step": 9.0}
        | ({"status": value} if isinstance(value, str) else {"status": "finished", tag: value})
        for arm, seen in values.items()
        for seed, value in enumerate(seen)
    ]


def test_means_spreads_and_the_best():
    table = tables.quality(rows_of({"a": [1.0, 3.0], "b": [1.0, "diverged"], "c": ["failed", "diverged"]}))
    assert table.header == ["arm", "n", "fd_digits10k_test ↓"]
    assert [[entry.text for entry in row] for row in table.rows] == [
        ["a", "2", "2 ± 1.4"],
        ["b", "1 of 2", "1"],
        ["c", "0 of 2", "–"],
    ]
    assert [row[2].best for row in table.rows] == [False, True, False]
    higher = tables.quality(rows_of({"a": [1.0], "b": [2.0]}, "metrics/modes10k"))
    assert higher.header[2] == "modes10k ↑"
    assert [row[2].best for row in higher.rows] == [False, True]
    alike = tables.quality(rows_of({"a": [1.0], "b": [1.0]}))
    assert not any(entry.best for row in alike.rows for entry in row)


def test_only_whole_arms_of_five_seeds_are_tested():
    low, high = [1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0]
    rows = rows_of({"base": low, "worse": high, "few": high[:4], "broken": [*high, "diverged"]})
    table = tables.significance(rows, "metrics/fd_digits10k_test", "base")
    assert [[entry.text for entry in row] for row in table.rows] == [["worse", "5", "+5", "0.00794", "0.00794"]]
    assert table.rows[0][-1].best


def test_how_cells_ended_is_counted():
    rows = rows_of({"a": [1.0, "diverged"], "b": ["failed", "pending"]})
    table = tables.endings(rows)
    assert table.header == ["arm", "finished", "diverged", "failed", "pending"]
    texts = [[entry.text for entry in row] for row in table.rows]
    assert texts == [["a", "1", "1", "0", "0"], ["b", "0", "0", "1", "1"]]
    assert [row[0].text for row in tables.troubles(rows).rows] == ["a-seed1", "b-seed0"]


@pytest.mark.parametrize(
    ("name", "higher"),
    [
        ("fid50k_train", False),
        ("fd_digits10k_test", False),
        ("kl10k", False),
        ("modes10k", True),
        ("is_digits10k", True),
    ],
)
def test_the_direction_of_a_metric_is_known(name, higher):
    assert higher_is_better(f"metrics/{name}") is higher


def test_the_direction_of_an_unknown_metric_is_not_guessed():
    assert higher_is_better("metrics/unheard_of") is None


def test_numbers_survive_the_table(tmp_path):
    rows = [
        {"cell": "a,b=1", "arm": "1e5", "metrics/x": 1.25, "axis": "none"},
        {"cell": "c", "late": 2.0, "none": None},
    ]
    write_table(tmp_path / "t.csv", rows)
    assert read_table(tmp_path / "t.csv") == [rows[0], {"cell": "c", "late": 2.0}]
    assert read_table(tmp_path / "absent.csv") == []


def test_a_long_curve_is_thinned_and_keeps_its_end():
    lines = [{"step": i, "images": 8 * i, "metrics/x": i} for i in range(1, 1002)]
    thinned = curve([{"step": 0, "loss/D": 1.0}, *lines])
    assert len(thinned) <= MAX_ROWS
    assert thinned[-1] == lines[-1]
    assert curve([]) == []


def test_time_per_step_leaves_the_warm_up_out():
    lines = [{"speed/images_per_s": speed} for speed in (1.0, 64.0, 128.0, 128.0)]
    assert seconds_per_step(lines, 64) == 0.5
    assert seconds_per_step([], 64) is None


def test_many_arms_are_drawn_in_groups_and_the_baseline_is_on_all():
    names = ["none", "a", "b", "c", "d,stride=paper"]
    arms = [f"{name}{end}" for name in names for end in ("", ",r1")]
    description = Description("c.yaml", {}, "none")
    panels = _panels(description, arms)
    assert list(panels) == ["", "r1"]
    assert panels[""] == names
    assert panels["r1"] == ["none", *(f"{name},r1" for name in names)]
    assert _panels(description, arms[:8]) == {"": arms[:8]}


@pytest.mark.parametrize("count", [3, 8, 15])
def test_each_kind_of_arm_has_its_own_color(count):
    kinds = {f"{i}{end}": str(i) for i in range(count) for end in ("", ",r1")}
    colors = choose_colors(kinds, "2")
    assert colors["2"] == BLACK
    assert colors["2,r1"] == GRAY
    assert all(colors[f"{i}"] == colors[f"{i},r1"] for i in range(count) if i != 2)
    assert len(set(colors.values())) == count + 1


DOCUMENT = [
    Heading("A & B", 1),
    Paragraph("x < y"),
    Table("50 % of a_b", ["arm", "kl ↓"], [[Entry("a,b"), Entry("1 ± 2", True)], [Entry("{c}"), Entry("–")]]),
]


def test_a_document_in_three_languages(tmp_path):
    assert to_markdown(DOCUMENT, tmp_path) == (
        "# A & B\n\nx < y\n\n50 % of a_b\n\n| arm | kl ↓ |\n| --- | --: |\n| a,b | **1 ± 2** |\n| {c} | – |\n"
    )
    page = to_html(DOCUMENT, "A & B")
    Page(page)
    assert "<h1>A &amp; B</h1>" in page
    assert '<td class="best">1 ± 2</td>' in page
    latex = to_latex([DOCUMENT[2]])
    assert r"\caption{50 \% of a\_b}" in latex
    assert r"a,b & \textbf{1 $\pm$ 2} \\" in latex
    assert r"\{c\} & -- \\" in latex


def test_tensorboard_finds_hparams_of_each_cell_and_no_other_run(grid):
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
    from tensorboard.plugins.hparams import metadata

    before = {path: path.read_bytes() for path in grid.rglob("events.*")}
    assert main(["--report", str(grid)]) == 0
    assert {path: path.read_bytes() for path in grid.rglob("events.*")} == before, "a rerun repeats nothing"
    events = EventMultiplexer().AddRunsFromDirectory(str(grid)).Reload()
    found = events.PluginRunToTagToContent(metadata.PLUGIN_NAME)
    cells = [row["cell"] for row in read_table(grid / "results.csv")]
    assert set(found) == {".", *(f"cells/{cell}" for cell in cells)}
    experiment = metadata.parse_experiment_plugin_data(found["."][metadata.EXPERIMENT_TAG])
    assert [info.name for info in experiment.hparam_infos] == ["arm", "seed", "discriminator.normalization"]
    tags = {info.name.tag for info in experiment.metric_infos}
    assert {"metrics/fd_digits70_test", "lipschitz/D/certified"} <= tags
    for row in read_table(grid / "results.csv"):
        run = f"cells/{row['cell']}"
        start = metadata.parse_session_start_info_plugin_data(found[run][metadata.SESSION_START_INFO_TAG])
        assert start.hparams["arm"].string_value == row["arm"]
        assert start.hparams["seed"].number_value == row["seed"]
        assert tags <= set(events.GetAccumulator(run).Tags()["scalars"]), "whose newest values the tab shows"
