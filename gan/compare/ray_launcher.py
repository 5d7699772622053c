"""Train cells as tasks on an existing Ray cluster: python -m gan.compare ... --launcher ray.

The folder of the comparison, the config file and this repository must be on storage that all nodes share under one path
(the repository can be installed on each node instead). If a node is lost, Ray retries its cell on another node, which
resumes from the last checkpoint in the run folder.
"""

# pyright: reportMissingImports=false
# (Ray is an optional dependency.)

import logging
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gan.compare.arms import Cell
from gan.compare.folder import GridFolder
from gan.compare.local_launcher import ROOT, Resources, start_process, wait_for
from gan.compare.status import FAILED, INTERRUPTED, RUNNING, Status, save_final_status, save_status
from gan.runtime.errors import UserError
from gan.runtime.files import write_text

MAX_RETRIES = 5  # of a cell whose node is lost
POLL_S = 0.5
CHECK_TIMEOUT_S = 60


def connect() -> None:
    """Connect to the cluster at RAY_ADDRESS, by default to the cluster of the local node.

    Ray replaces the process's SIGTERM handler. Raises UserError if there is no cluster.
    """
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


def run_cells(
    cells: Sequence[Cell], folder: GridFolder, resources: Resources, on_change: Callable[[Cell, Status], None]
) -> None:
    """Train all cells on the connected cluster, at most `jobs` at a time, and disconnect.

    Calls `on_change` as `gan.compare.local_launcher.run_cells` does. Raises UserError if the nodes do not share the
    storage.
    """
    folder = GridFolder(folder.root.resolve())
    resources = replace(resources, config=resources.config.resolve())
    waiting, tasks, started, ended = list(cells), {}, set(), []
    try:
        check_storage(folder)
        gpus = 1 if resources.device != "cpu" and ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_cpus=resources.threads, num_gpus=gpus, max_retries=MAX_RETRIES)(train_cell)
        while waiting or tasks or ended:
            while waiting and len(tasks) < resources.jobs:
                cell = waiting.pop(0)
                tasks[task.remote(cell, folder, resources)] = (cell, _get_size(folder.log_file(cell.name)))
            for cell, reference in ended:  # after the next cells could start, as `on_change` takes time
                on_change(cell, _get_status(reference, folder, cell))
            done, _ = ray.wait(list(tasks), timeout=POLL_S) if tasks else ([], [])
            for cell, size in tasks.values():  # a cell has started when its log grows
                if cell.name not in started and _get_size(folder.log_file(cell.name)) > size:
                    started.add(cell.name)
                    on_change(cell, Status(RUNNING))
            ended = [(tasks.pop(reference)[0], reference) for reference in done]
    finally:
        for reference, (cell, _) in tasks.items():
            ray.cancel(reference, force=True)  # kills the worker; the process of the cell then ends
            save_status(folder, cell.name, Status(INTERRUPTED))
            on_change(cell, Status(INTERRUPTED))
        ray.shutdown()


def check_storage(folder: GridFolder) -> None:
    """Write a token to the folder and read it on each node. Raises UserError if a node cannot read it."""
    token, path = uuid.uuid4().hex, folder.root / f".token-{uuid.uuid4().hex}"
    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    write_text(path, token)
    try:
        task = ray.remote(num_cpus=0, max_retries=0)(read_token)
        answers = {
            name: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(path)
            for node, name in nodes.items()
        }
        failed = [name for name, answer in answers.items() if _get_token(answer, name) != token]
    finally:
        path.unlink()
    if failed:
        raise UserError(
            f"--launcher ray: {', '.join(failed)} cannot read {folder.root} or cannot import this package; --out must "
            "be on storage that all nodes share under one path"
        )


def read_token(path: Path) -> str:
    """Return the content of a file, or an empty string if it cannot be read. Runs on each node."""
    try:
        return path.read_text()
    except OSError:
        return ""


def train_cell(cell: Cell, folder: GridFolder, resources: Resources) -> Status:
    """Train a cell, or resume it, and return its status. Runs as a Ray task."""
    return save_final_status(folder, cell, wait_for(start_process(cell, folder, resources)))


def _get_status(reference: Any, folder: GridFolder, cell: Cell) -> Status:
    """Return the result of a task, or a failure if Ray gave up on it."""
    try:
        return ray.get(reference)
    except RayError as error:
        status = Status(FAILED, f"Ray: {type(error).__name__} after {MAX_RETRIES} retries")
        save_status(folder, cell.name, status)
        return status


def _get_token(answer: Any, node: str) -> str:
    try:
        return ray.get(answer, timeout=CHECK_TIMEOUT_S)
    except GetTimeoutError:
        raise UserError(f"--launcher ray: no answer from {node} in {CHECK_TIMEOUT_S} s; is it overloaded?") from None
    except RayError:
        return ""


def _get_size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
