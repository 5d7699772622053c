"""Every figure in the documentation has a source, and those with data are recomputed from it (docs/figures.py)."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from models.kernels.symbol import largest_norm

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import figure_sources  # noqa: E402
import figures  # noqa: E402

PAGES = figures.list_pages()
STUDY = "arm,status,step,metrics/fd_digits10k_test\na,finished,9,1.0\na,finished,9,2.0\nb,finished,9,4.0\n"


def test_every_figure_is_recomputed_or_has_a_stated_source():
    assert not figures.check_pages(PAGES)


def test_measured_figures_without_stored_output_are_listed():
    """Shown by `pytest -rP tests/test_figures.py` and by `python docs/figures.py`."""
    listed = figures.list_sources(PAGES, ["not stored"])
    print("\n".join(listed))
    assert len(listed) == sum((ROOT / path).read_text(encoding="utf-8").count("<!-- not stored") for path in PAGES)


def test_all_pages_and_studies_are_checked():
    assert {Path("README.md"), Path("CHANGELOG.md"), Path("docs/benchmarks.md")} <= set(PAGES)
    markers = [marker for path in PAGES for block in figures.read_page(path) for marker in block.markers]
    sources = {content.partition(":")[0] for kind, content in markers if kind == "data"}
    assert {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/studies/**/results.csv")} <= sources


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Return a function that checks a text, in a repository with one study and one output."""
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    monkeypatch.setattr(figure_sources, "ROOT", tmp_path)
    (tmp_path / "docs" / "studies" / "s").mkdir(parents=True)
    (tmp_path / "docs" / "studies" / "s" / "results.csv").write_text(STUDY)
    (tmp_path / "out.txt").write_text("$ command\nstep 1  loss 0.5\nstep 2  loss 0.25\nfd  1.5\n")
    (tmp_path / "out.json").write_text('{"stage": {"images/s": 12.34, "speed": "1.50x [1.4, 1.6]"}}')
    figure_sources.open_source.cache_clear()
    yield lambda text, page="docs/page.md": [
        problem.partition(": ")[2] for problem in figures.check_blocks(figures.read_blocks(Path(page), text))
    ]
    figure_sources.open_source.cache_clear()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is 1.5 higher.", "1.5"),
        ("- one\n- loses 12 % of it", "12"),
        ("**3 times as fast**", "3"),
        ("a ratio of 2x", "2"),
        ("a 2.5-fold gain, p=0.04", "2.5"),
        ("a 2.5-fold gain, p=0.04", "0.04"),
        ("50.2±4.1", "4.1"),
        ("1,500 images", "1,500"),
        ("an error of 2e-6", "2e-6"),
        ("a change of -0.5", "-0.5"),
        ("| a | b |\n|---|--:|\n| row 7 | 12 ± 3 |", "12"),
        ("```\nfd  1.5\n```", "1.5"),
    ],
)
def test_figure_without_marker_is_found(check, text, number):
    assert f"{number} has no source" in check(text)
    assert f"{number} has no source" in check(f"# Title\n\n<!-- constants: 9.5 -->\nOnly 9.5.\n\n{text}\n")


@pytest.mark.parametrize(
    "text",
    [
        "Train 3 networks of 16x16 and 3 x 3 pixels on a 2-core CPU with torch 2.14.1 and `lr=1.5`.",
        "[ResNet-18](docs/1.5.md), CIFAR-10, fid50k, version 0.1, ![2.5](2.5.png) NeurIPS 2021",
        "```python\nx = 1.5\n```",
        "```\npython train_gan.py optimizer.lr=1.5,2.5\n```",
        "| 1.5 | lr 2 |\n|---|---|\n| 2.5 | `3.5` |",
    ],
)
def test_names_settings_and_programs_are_no_figures(check, text):
    assert not check(text)


def test_every_number_in_a_study_and_beside_data_needs_a_source(check):
    assert check("3 seeds, seven of ten", "docs/studies/s/README.md") == ["3 has no source", "seven has no source"]
    marker = '<!-- data docs/studies/s: 1.5 = mean("a") -->'
    assert check(f"1.5 over 2 seeds {marker}") == ["2 has no source"]
    assert not check(f"1.5 over 2 seeds {marker} <!-- constants: 2 -->")
    assert not check(f"1.5 over 2 seeds {marker} <!-- not stored (2): a command -->")
    assert "must list its numbers" in check(f"1.5 over 2 seeds {marker} <!-- not stored: a command -->")[0]


@pytest.mark.parametrize(
    ("written", "expression"),
    [
        ("1.5", 'mean("a")'),
        ("0.71", 'std("a")'),
        ("4", 'mean("b", "fd_digits10k_test")'),
        ("-2.5", 'mean("a") - mean("b")'),
        ("33 %", '100 * p("a", "b")'),
        ("1,500", '1000 * mean("a")'),
        ("1.5e3", '1000 * mean("a")'),
        ("two of", 'len(values("a"))'),
    ],
)
def test_numbers_are_recomputed_at_the_written_precision(check, written, expression):
    number = written.split()[0]
    marker = f"<!-- data docs/studies/s: {number} = {expression}"
    assert not check(f"Here {written} all. {marker} -->")
    (problem,) = check(f"Here {written} all. {marker} + 1000 -->")
    assert problem.startswith(f"{number} should be ")


def test_rounding_is_to_the_last_written_digit(check):
    assert figure_sources.is_rounded("1.50", 1.5049)
    assert not figure_sources.is_rounded("1.50", 1.5051)
    assert figure_sources.is_rounded("1.2e7", 1.249e7)
    assert not figure_sources.is_rounded("1.2e7", 1.251e7)
    assert figure_sources.is_rounded("31,060", 31060.4)
    assert not figure_sources.is_rounded("31,060", 31055)


def test_table_is_recomputed_by_row(check):
    table = "| arm | mean | n |\n|---|--:|--:|\n| `a` | 1.5 ± 0.7 | 2 |\n| `b` | 4.0 | |\n"
    expression = '[[spread(arm), len(values(arm)) if arm == "a" else None] for arm in ["a", "b"]]'
    marker = f"<!-- data docs/studies/s: table = {expression} -->\n"
    assert not check(marker + table)
    assert check(marker + table.replace("0.7", "0.8")) == ["0.8 should be 0.707107 (table)"]
    assert any("4 values for 3 numbers" in problem for problem in check(marker + table.replace("4.0", "")))


def test_statements_are_checked(check):
    text = 'a is better than b. <!-- data docs/studies/s: holds = mean("a") < mean("b") -->'
    assert not check(text)
    assert check(text.replace(" < ", " > ")) == ['does not hold: mean("a") > mean("b")']


def test_named_value_is_known_to_what_follows_on_its_page(check):
    named = '<!-- data docs/studies/s: let best = ["a", "b"] -->\n\n'
    number = "4.0 <!-- data docs/studies/s: 4.0 = max(mean(arm) for arm in best) -->\n\n"
    assert not check(named + number)
    assert any("name 'best' is not defined" in problem for problem in check(number + named))


def test_output_is_a_part_of_its_file(check):
    block = "<!-- output out.txt -->\n```\nstep 1  loss 0.5\n...\nfd  1.5\n```\n"
    assert not check(block)
    assert check(block.replace("1.5", "1.6")) == ["out.txt has no line 'fd  1.6' here"]
    assert check(block.replace("out.txt", "none.txt")) == ["there is no file none.txt"]
    assert "the first line of out.json is not its command: $ ..." in check(block.replace("out.txt", "out.json"))


def test_numbers_of_a_json_file_and_an_output(check):
    assert not check('1.5x, 12.3 <!-- data out.json: 1.5 = get("stage", "speed"); 12.3 = get("stage", "images/s") -->')
    assert not check('1.5 and 0.25 <!-- data out.txt: 1.5 = get("fd"); 0.25 = get("step 2  loss") -->')
    assert check('1.5 <!-- data out.txt: 1.5 = get("kid") -->') == [
        '1.5 = get("kid"): no entry kid',
        "1.5 has no source",
    ]


@pytest.mark.parametrize(
    ("marker", "problem"),
    [
        ('data docs/studies/s: 1.5 = mean("c")', "s has no arm c"),
        ('data docs/studies/s: 1.5 = mean("a", "kid")', "s has 0 columns named kid"),
        ("data docs/studies/s: 1.5", "expected NUMBER = EXPRESSION"),
        ("data docs/studies/none: 1.5 = 1.5", "docs/studies/none"),
        ("constants: 1.5, 2.5", "2.5 of the marker 'constants' is not in the text"),
        ("not stored (2.5): a command", "2.5 of the marker 'not stored' is not in the text"),
        ("not stored (2.5): a command", "1.5 has no source"),
        ("tested tests/test_figures.py::test_that_is_absent", "there is no test"),
        ("not stored", "names no source"),
        ("constants:\n1.5", "must begin its line"),
        ("quoted:", "names no source"),
    ],
)
def test_invalid_markers_are_found(check, marker, problem):
    assert any(problem in found for found in check(f"It is 1.5. <!-- {marker} -->"))


def test_changed_data_and_changed_text_are_found(check, tmp_path):
    text = 'The mean is 1.5.\n<!-- data docs/studies/s: 1.5 = mean("a") -->'
    assert not check(text)
    assert check(text.replace("is 1.5", "is 1.6")) == ["1.5 is not in the text", "1.6 has no source"]
    assert check(text.replace("1.5", "1.6")) == ['1.6 should be 1.5 (mean("a"))']
    (tmp_path / "docs" / "studies" / "s" / "results.csv").write_text(STUDY.replace("2.0", "2.2"))
    figure_sources.open_source.cache_clear()
    assert check(text) == ['1.5 should be 1.6 (mean("a"))']


def test_pages_are_rendered_without_markers():
    markers = "<!-- data x: 2 = 2;\n  3 = 3 --> <!-- tested t::f -->"
    text = f"- a 1.5 <!-- constants: 1.5 -->\n  {markers}\n- b\n\n<!-- keep -->\n"
    assert figures.remove_markers(text) == "- a 1.5\n- b\n\n<!-- keep -->\n"


def test_conv_norm_raises_the_norm_at_initialization():
    plain, normalized = [], []
    for seed in range(4):
        torch.manual_seed(seed)
        weight = nn.Conv2d(128, 128, 3).weight.detach().double()
        symbol = torch.fft.rfft2(weight, (4, 4)).permute(2, 3, 0, 1).flatten(0, 1)
        plain.append(largest_norm(symbol))
        normalized.append(largest_norm(symbol / symbol.norm(dim=-1, keepdim=True)))
    claim = f"norm of a 128 -> 128 convolution from {sum(plain) / 4:.2f} to {sum(normalized) / 4:.2f}."
    for page in ("README.md", "docs/methods.md"):
        assert claim in (ROOT / page).read_text(encoding="utf-8")
