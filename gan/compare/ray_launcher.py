"""Cells as tasks on an existing Ray cluster: python -m gan.compare ... --launcher ray.

The comparison's folder must be on storage that all nodes share, under one path; so must the toolkit (or be installed on
each) and the config file. Ray retries the cell of a node that is lost; it finds the run folder, and goes on from the
last checkpoint there.
"""

# pyright: reportMissingImports=false
# (Ray is an extra of its own.)

import logging
import os
import signal
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gan.compare.arms import Cell
from gan.compare.folder import GridFolder, write_text
from gan.compare.grid import ROOT, Resources, start, stop
from gan.compare.outcome import FAILED, INTERRUPTED, RUNNING, Outcome, keep_outcome, outcome_after
from gan.runtime.errors import UserError

RETRIES = 5  # of a cell whose node is lost
POLL_S = 0.5
CHECK_S = 60  # for a node to answer


def run_cells(
    cells: Sequence[Cell], folder: GridFolder, resources: Resources, report: Callable[[Cell, Outcome], None]
) -> None:
    """Train all cells as `gan.compare.grid.run_cells` does, `jobs` of them at a time, on the cluster at RAY_ADDRESS (by
    default the one that this machine is part of). UserError when there is none, or its nodes share no storage.
    """
    folder = GridFolder(folder.root.resolve())
    resources = replace(resources, config=resources.config.resolve())
    on_sigterm = signal.getsignal(signal.SIGTERM)
    connect()
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put its own there
    waiting, tasks, told = list(cells), {}, set()
    try:
        check_storage(folder)
        gpus = 1 if resources.device != "cpu" and ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_cpus=resources.threads, num_gpus=gpus, max_retries=RETRIES)(train_cell)
        while waiting or tasks:
            while waiting and len(tasks) < resources.jobs:
                cell = waiting.pop(0)
                tasks[task.remote(cell, folder, resources)] = (cell, _size(folder.log(cell.name)))
            done, _ = ray.wait(list(tasks), timeout=POLL_S)
            for cell, size in tasks.values():
                if cell.name not in told and _size(folder.log(cell.name)) > size:
                    told.add(cell.name)
                    report(cell, Outcome(RUNNING))
            for reference in done:
                cell, _ = tasks.pop(reference)
                report(cell, _outcome(reference, folder, cell))
    finally:
        for reference, (cell, _) in tasks.items():
            ray.cancel(reference, force=True)  # its worker dies, and with it the cell
            keep_outcome(folder, cell.name, Outcome(INTERRUPTED))
            report(cell, Outcome(INTERRUPTED))
        ray.shutdown()


def connect() -> None:
    """Join the cluster; UserError when there is none."""
    address = os.environ.get("RAY_ADDRESS", "auto")
    try:
        ray.init(
            address=address,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError) as error:
        raise UserError(f"--launcher ray: no Ray cluster at {address} ({error}); see `ray start --help`") from None


def check_storage(folder: GridFolder) -> None:
    """Have a task on each node read a token that this process writes; UserError for the nodes that cannot."""
    token, path = uuid.uuid4().hex, folder.root / f".token-{uuid.uuid4().hex}"
    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    write_text(path, token)
    try:
        task = ray.remote(num_cpus=0, max_retries=0)(read_token)
        answers = {
            name: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(path)
            for node, name in nodes.items()
        }
        blind = [name for name, answer in answers.items() if _get(answer) != token]
    finally:
        path.unlink()
    if blind:
        raise UserError(
            f"--launcher ray: {', '.join(blind)} cannot read {folder.root} (or import this toolkit); --out must "
            "be on storage that all nodes share under one path"
        )


def read_token(path: Path) -> str:
    """Return what is in a file, nothing when there is none: the task of the check."""
    try:
        return path.read_text()
    except OSError:
        return ""


def train_cell(cell: Cell, folder: GridFolder, resources: Resources) -> Outcome:
    """Train a cell, or go on with it, and return how it ended: the task of a cell."""
    process = start(cell, folder, resources)
    try:
        while process.poll() is None:  # not wait(), so that a cancelled task notices
            time.sleep(POLL_S)
    finally:
        if process.poll() is None:
            stop([process])
    return outcome_after(folder, cell, process.returncode)


def _outcome(reference: Any, folder: GridFolder, cell: Cell) -> Outcome:
    """Return how a task's cell ended: failed when the cluster gave it up."""
    try:
        return ray.get(reference)
    except RayError as error:
        outcome = Outcome(FAILED, f"Ray: {type(error).__name__} after {RETRIES} retries")
        keep_outcome(folder, cell.name, outcome)
        return outcome


def _get(answer: Any) -> str:
    try:
        return ray.get(answer, timeout=CHECK_S)
    except RayError:
        return ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
