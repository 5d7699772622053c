import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gan.compare.csv_files import read_table
from gan.run.logging import read_metrics
from train_gan import main as train

ROOT = Path(__file__).parents[3]
OVERRIDES = ["train.steps=1500", "checkpoint.every=50", "log.every=50", "eval.every=500", "lipschitz.audit_every=500"]

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster():
    """A cluster of three nodes on this machine: a head without CPUs, and two nodes with one CPU each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    yield cluster
    cluster.shutdown()


def compare(cluster, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "gan.compare", *map(str, arguments), "--launcher", "ray", "--device", "cpu"],
        cwd=ROOT,
        env=os.environ | {"RAY_ADDRESS": cluster.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def get_logged_values(run: Path) -> list[dict]:
    lines = read_metrics(run)
    return [{tag: value for tag, value in line.items() if not tag.startswith("speed/")} for line in lines]


def test_cell_of_a_lost_node_resumes_on_another_node(cluster, small_config, tmp_path):
    out = tmp_path / "out"
    process = compare(cluster, small_config, "--seeds", "0,1", "--out", out, *OVERRIDES)
    deadline = time.monotonic() + 120
    while len({path.parents[1] for path in out.glob("cells/*/checkpoints/step_*.pt")}) < 2:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    cluster.remove_node(cluster.workers[0], allow_graceful=False)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert {row["status"] for row in read_table(out / "results.csv")} == {"finished"}
    starts = {log.stem: log.read_text().count("$ python train_gan.py") for log in (out / "logs").glob("*.log")}
    assert sorted(starts.values()) == [1, 2]  # the cell of the other node was not restarted
    lost = max(starts, key=starts.get)
    text = (out / "logs" / f"{lost}.log").read_text()
    assert text.count("--resume") == 1
    assert ": step 0 of 1500" not in text.rpartition("$ python")[2]
    whole = tmp_path / "whole"
    seed = f"seed={lost[-1]}"
    assert train(["--config", str(small_config), "--out", str(whole), "--device", "cpu", *OVERRIDES, seed]) == 0
    assert get_logged_values(out / "cells" / lost) == get_logged_values(whole)


def test_nodes_without_shared_storage_are_a_user_error(cluster, small_config, tmp_path, monkeypatch):
    import ray

    from gan.compare import ray_launcher
    from gan.compare.folder import GridFolder
    from gan.runtime.errors import UserError

    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    ray_launcher.connect()
    try:
        ray_launcher.check_storage(GridFolder(tmp_path))
        assert list(tmp_path.iterdir()) == []
        monkeypatch.setattr(ray_launcher, "read_token", lambda path: "")  # as on a node with its own storage
        with pytest.raises(UserError, match="be on storage that all nodes share"):
            ray_launcher.check_storage(GridFolder(tmp_path))
    finally:
        ray.shutdown()


def test_missing_cluster_is_a_user_error(small_config, tmp_path, monkeypatch, capsys):
    pytest.importorskip("ray")
    from gan.compare.__main__ import main

    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert main([str(small_config), "--launcher", "ray", "--out", str(tmp_path / "out")]) == 2
    assert "no Ray cluster at auto" in capsys.readouterr().err
