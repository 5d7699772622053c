"""Tests of docs/paper_plots.py."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import paper_plots  # noqa: E402

VERSION = re.compile(r"Matplotlib v[\d.]+")


def test_plots_of_the_paper_are_those_of_the_data(tmp_path):
    paper_plots.draw(tmp_path)
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\(images/paper/([\w.]+)\)", page)) == set(drawn)
    stored = {path.name: path.read_text() for path in paper_plots.IMAGES.iterdir()}
    assert set(stored) == set(drawn)
    for name, text in drawn.items():
        if VERSION.findall(text) == VERSION.findall(stored[name]):  # another version draws other curves
            assert text == stored[name], f"run python docs/paper_plots.py: {name} is not from this data"
