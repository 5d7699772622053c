"""The driver and the tables of the GPU check, with stages that crash and hang."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.chart import write_chart
from benchmarks.gpu.driver import Stage, run_stages
from benchmarks.gpu.results import END, NOT_MEASURED, append, collect, file_name, format_page, write_json

ROOT = Path(__file__).parents[2]
NOTE = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from benchmarks.gpu.results import append

append(Path({results!r}), {stage!r}, "first", {{"ms": 1.5}})
{then}
"""


@pytest.fixture
def make_stage(tmp_path, request):
    def make(name, then, seconds=60.0, alone=True):
        program = NOTE.format(root=str(request.config.rootpath), results=str(tmp_path / "r"), stage=name, then=then)
        return Stage(lambda seconds: [sys.executable, "-c", program], seconds, alone)

    return make


@pytest.mark.slow  # it waits until a stage is out of time
def test_stages_that_crash_and_hang_keep_their_results(tmp_path, make_stage):
    child = "import subprocess; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).wait()"
    stages = {
        "crashes": make_stage("crashes", "import os; os.abort()", alone=False),
        "raises": make_stage("raises", "raise ValueError", alone=False),
        "hangs": make_stage("hangs", f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {child}", 4.0),
        "works": make_stage("works", "pass"),
    }
    summaries = []
    run_stages(stages, tmp_path / "r", tmp_path / "log", 100, lambda: summaries.append(collect(tmp_path / "r")))
    results = collect(tmp_path / "r")
    assert all(results[name]["first"] == {"ms": 1.5} for name in stages)
    ends = {name: results[name][END]["ended"] for name in stages}
    assert ends == {
        "crashes": "failed, exit code -6",
        "raises": "failed, exit code 1",
        "hangs": "out of time",
        "works": "complete",
    }
    assert results["hangs"][END]["seconds"] < 20
    assert len(summaries) == len(stages) + 1


@pytest.mark.slow
def test_stage_without_time_is_not_started(tmp_path, make_stage):
    stages = {name: make_stage(name, "time.sleep(600)") for name in ("a", "b")}
    run_stages(stages, tmp_path / "r", tmp_path / "log", 4)
    results = collect(tmp_path / "r")
    assert results["a"][END]["ended"] == "out of time"
    assert results["b"] == {END: {"ended": "not started, no time was left", "seconds": 0}}


def test_results_become_a_table(tmp_path):
    assert format_page(tmp_path) == NOT_MEASURED
    lines = tmp_path / "results.jsonl"
    append(lines, "step", "eager", {"images/s": 1.0, "captured": False})
    lines.write_text(lines.read_text() + '{"stage": "step", "wh')  # killed while it wrote
    append(lines, "step", "eager", {"images/s": 12345.6, "captured": False})
    append(lines, "step", "graph", {"images/s": 0.5, "captured": True})
    append(lines, "step", "peer: error", {"error": "a | b\nc"})
    append(lines, "step", END, {"ended": "complete", "seconds": 3.2, "revision": "0123456789-dirty"})
    file = tmp_path / file_name("NVIDIA H100 80GB HBM3")
    assert file.name == "nvidia-h100-80gb-hbm3.json"
    write_json(file, "NVIDIA H100 80GB HBM3", {"ceilings": {"copy": {"TB/s": 2.5}}})
    write_json(file, "NVIDIA H100 80GB HBM3", collect(lines))  # keeps the other stage
    not_started = {END: {"ended": "not started, no time was left", "seconds": 0}}
    write_json(file, "NVIDIA H100 80GB HBM3", {"step": not_started})  # keeps the earlier results
    assert format_page(tmp_path).splitlines() == [
        *("### NVIDIA H100 80GB HBM3", "", "**ceilings**", ""),
        *("|  | TB/s |", "| --- | --: |", "| copy | 2.5 |", "", "**step** (complete, 3 s, revision 0123456-dirty)", ""),
        *("|  | images/s | captured |", "| --- | --: | --: |", "| eager | 12,346 | no |", "| graph | 0.5 | yes |", ""),
        *("|  | error |", "| --- | --: |", "| peer: error | a \\| b c |"),
    ]


def test_charts_of_the_documentation_show_its_results(tmp_path):
    results = list((ROOT / "docs" / "benchmarks").glob("*.json"))
    assert results
    for file in results:
        write_chart(tmp_path / "chart.svg", **json.loads(file.read_text()))
        assert (tmp_path / "chart.svg").read_text() == file.with_suffix(".svg").read_text()
