"""2,000 steps of the default config: what a run holds and writes does not grow with its length."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gan.logging import read_lines

ROOT = Path(__file__).parents[2]
STEPS = 2000
WARM = 1000  # by then every part of a step has been done: log, evaluation, audit, checkpoint

# Train, and note after every 100th step what the process holds.
PROGRAM = """\
import json, os, sys, threading
import gan.loop, train_gan
notes, step = [], gan.loop.generator_step
def noted(run, *args):
    if run.step % 100 == 0:
        pages = int(open("/proc/self/statm").read().split()[1])
        held = {"rss": pages * os.sysconf("SC_PAGE_SIZE"), "files": len(os.listdir("/proc/self/fd"))}
        notes.append({"step": run.step, "threads": threading.active_count(), **held})
    return step(run, *args)
gan.loop.generator_step = noted
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
    print(notes)
    assert warm[-1]["rss"] - warm[0]["rss"] < 20e6
    assert {(note["files"], note["threads"]) for note in warm} == {(warm[0]["files"], warm[0]["threads"])}

    run = tmp_path / "run"
    lines = read_lines(run / "metrics.jsonl")
    numbers = sum(len(line) for line in lines)
    pictures = sum(path.stat().st_size for path in (run / "samples").iterdir())
    audits = sum("lipschitz/D/certified" in line for line in lines)
    (events,) = run.glob("events.out.tfevents.*")
    size = events.stat().st_size
    print(size, numbers, pictures, audits, (run / "metrics.jsonl").stat().st_size)
    # An event is its tag, its value and some 50 bytes; a histogram has at most some 1,500 buckets of 16 bytes.
    assert size < 10_000 + 120 * numbers + 2 * pictures + 10 * 25_000 * audits
    assert len(list((run / "checkpoints").iterdir())) == 3  # checkpoint.keep newest and the best
