"""Resource usage does not grow during 2,000 steps of the default config."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gan.run.logging import read_metrics

ROOT = Path(__file__).parents[3]
STEPS = 2000
WARM_UP = 1000  # after these steps, log, evaluation, audit and checkpoint have all been executed

# Trains and records the memory, files and threads of the process in every 100th step.
PROGRAM = """\
import json, os, sys, threading
import gan.training.step, train_gan
records, update_generator = [], gan.training.step.update_generator
def update_and_record(experiment, *networks):
    if experiment.step % 100 == 0:
        pages = int(open("/proc/self/statm").read().split()[1])
        usage = {"rss": pages * os.sysconf("SC_PAGE_SIZE"), "files": len(os.listdir("/proc/self/fd"))}
        records.append({"step": experiment.step, "threads": threading.active_count(), **usage})
    return update_generator(experiment, *networks)
gan.training.step.update_generator = update_and_record
code = train_gan.main(sys.argv[2:])
open(sys.argv[1], "w").write(json.dumps(records))
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_resource_usage_does_not_grow(tmp_path, cache):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "records.json"), "--device", "cpu"]
    command += ["--out", str(tmp_path / "run"), f"train.steps={STEPS}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    records = [record for record in json.loads((tmp_path / "records.json").read_text()) if record["step"] >= WARM_UP]
    assert len(records) == (STEPS - WARM_UP) // 100
    # In bytes; one tensor kept in each step would need more.
    assert records[-1]["rss"] - records[0]["rss"] < 5e6
    assert {(record["files"], record["threads"]) for record in records} == {
        (records[0]["files"], records[0]["threads"])
    }

    run = tmp_path / "run"
    count = sum(len(line) for line in read_metrics(run))
    samples = sum(path.stat().st_size for path in (run / "samples").iterdir())
    (events,) = run.glob("events.out.tfevents.*.v2")
    # An event contains a tag, a value and about 50 other bytes. The file also contains the samples and some histograms.
    assert events.stat().st_size < 10_000 + 100 * count + 1.1 * samples
    assert len(list((run / "checkpoints").iterdir())) == 3  # checkpoint.keep newest and the best
