"""2,000 steps of the default config: what a run holds and writes does not grow with its length."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gan.run.logging import read_metrics

ROOT = Path(__file__).parents[3]
STEPS = 2000
WARM = 1000  # by then every part of a step has been done: log, evaluation, audit, checkpoint

# Train, and note after every 100th step what the process holds.
PROGRAM = """\
import json, os, sys, threading
import gan.training.step, train_gan
notes, step = [], gan.training.step.update_generator
def noted(run, *args):
    if run.step % 100 == 0:
        pages = int(open("/proc/self/statm").read().split()[1])
        held = {"rss": pages * os.sysconf("SC_PAGE_SIZE"), "files": len(os.listdir("/proc/self/fd"))}
        notes.append({"step": run.step, "threads": threading.active_count(), **held})
    return step(run, *args)
gan.training.step.update_generator = noted
code = train_gan.main(sys.argv[2:])
open(sys.argv[1], "w").write(json.dumps(notes))
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_a_long_run_holds_and_writes_no_more_than_a_short_one(tmp_path, cache):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "notes.json"), "--device", "cpu"]
    command += ["--out", str(tmp_path / "run"), f"train.steps={STEPS}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    notes = json.loads((tmp_path / "notes.json").read_text())
    warm = [note for note in notes if note["step"] >= WARM]
    assert len(warm) == (STEPS - WARM) // 100
    assert warm[-1]["rss"] - warm[0]["rss"] < 5e6  # bytes; a tensor kept from each step would be more
    assert {(note["files"], note["threads"]) for note in warm} == {(warm[0]["files"], warm[0]["threads"])}

    run = tmp_path / "run"
    lines = read_metrics(run)
    numbers = sum(len(line) for line in lines)
    pictures = sum(path.stat().st_size for path in (run / "samples").iterdir())
    (events,) = run.glob("events.out.tfevents.*")
    # An event is its tag, its value and some 50 bytes; the pictures are in it once more, and a few histograms.
    assert events.stat().st_size < 10_000 + 100 * numbers + 1.1 * pictures
    assert len(list((run / "checkpoints").iterdir())) == 3  # checkpoint.keep newest and the best
