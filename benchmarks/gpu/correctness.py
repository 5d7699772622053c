"""Stages of the GPU check that only have to be right: environment, tests, and short runs."""

import importlib.util
import math
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils._pytree import tree_leaves

from benchmarks.gpu.task import ROOT, Task
from gan.run.checkpoint import load
from gan.run.logging import read_metrics
from gan.runtime.provenance import hardware, package_version, revision

OPTIONAL = ("torch-mimicry", "torch-fidelity", "pytorch-fid", "scikit-learn", "tensorboard", "filelock", "triton")
TEST_PROCESSES = 12
REPORT_SECONDS = 10.0  # that pytest has to print failures when time is up
OUTCOME = re.compile(r"^\[gw\d+\] \[ *\d+%\] (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS) (\S+?)::(.+?) *$")


def environment(task: Task) -> None:
    """Write what ran the check: versions, device, and which optional packages are there."""
    name = torch.cuda.get_device_name() if task.on_cuda else "CPU"
    task.note("device", name=name, hardware=hardware(), revision=revision())
    task.note("versions", python=platform.python_version(), torch=torch.__version__, cuda=str(torch.version.cuda))
    if task.on_cuda:
        properties = torch.cuda.get_device_properties(task.device)
        driver = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem", "--format=csv,noheader"]
        with task.attempt("nvidia-smi"):
            task.note("driver, clocks", value=subprocess.run(driver, capture_output=True, text=True).stdout.strip())
        task.note(
            "GPU",
            cuDNN=torch.backends.cudnn.version(),
            memory_GiB=properties.total_memory / 2**30,
            multiprocessors=properties.multi_processor_count,
            capability=str(torch.cuda.get_device_capability()),
        )
    for package in OPTIONAL:
        module = {"scikit-learn": "sklearn"}.get(package, package.replace("-", "_"))
        there = importlib.util.find_spec(module) is not None
        task.note(package, installed=there, version=package_version(package) if there else "")


def tests(task: Task) -> None:
    """Run the tests that are marked gpu in several processes, and count the outcomes after each test."""
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    # By file, since other files may import packages that are not installed.
    marked = [path.relative_to(ROOT).as_posix() for path in paths if "pytest.mark.gpu" in path.read_text()]
    # The options of pyproject.toml without the selection of tests.
    command = [sys.executable, "-u", "-m", "pytest", "-o", "addopts=", "--import-mode=importlib", "-m", "gpu", "-v"]
    command += ["-rf", "--tb=short", "-W", "default", "-p", "no:cacheprovider", "--dist", "worksteal"]
    command += ["-n", str(min(os.cpu_count() or 1, TEST_PROCESSES))] if task.on_cuda else ["--collect-only", "-q"]
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    failed: dict[str, list[str]] = defaultdict(list)
    environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, *marked], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        # Before the stage is ended, so that the failures until then are printed.
        timer = threading.Timer(task.seconds_left - REPORT_SECONDS, process.send_signal, [signal.SIGINT])
        timer.start()
        for line in process.stdout:
            print(line, end="", flush=True)
            if (match := OUTCOME.match(line)) is not None:
                outcome, path, name = match.groups()
                outcomes[path][outcome.lower()] += 1
                failed[path] += [name] if outcome in ("FAILED", "ERROR") else []
                counts = {kind: outcomes[path][kind] for kind in ("passed", "failed", "error", "skipped")}
                task.note(path, **counts, failures="; ".join(failed[path]))
        timer.cancel()
    task.note("pytest", exit_code=process.returncode)


def runs(task: Task) -> None:
    """Train the default config as a user does, in fp32 and bf16. Resumed runs must be bit-equal to whole ones."""
    steps = 8 if task.tiny else 60
    half = steps // 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = [*_data_options(task, folder), "log.to=[]", f"train.steps={steps}", f"log.every={half}"]
        common += [f"{key}={half}" for key in ("eval.every", "checkpoint.every", "lipschitz.every")]
        common += [f"lipschitz.audit_every={half}", "optimizer.schedule=constant"]
        common += ["generator.width=8", "discriminator.width=8"] if task.tiny else []

        def run(label: str, *overrides: str) -> Callable[[], None]:
            def train_once() -> None:
                with task.attempt(label):
                    task.note(label, **_train(task, folder / label, *common, *overrides))

            return train_once

        def resume(label: str, *overrides: str) -> Callable[[], None]:
            def train_and_resume() -> None:
                with task.attempt(f"{label}, resumed"):
                    whole, parts = folder / label, folder / f"{label}, resumed"
                    task.note(label, **_train(task, whole, *common, *overrides))
                    _train(task, parts, *common, *overrides, f"train.steps={half}")
                    numbers = _train(task, parts, *common, *overrides, "--resume")
                    task.note(f"{label}, resumed", **numbers, bit_equal=_same_weights(whole, parts))

            return train_and_resume

        exact = "train.deterministic=true"
        _side_by_side(
            task,
            [
                *(resume("deterministic", exact), resume("deterministic, bf16", exact, "train.precision=bf16")),
                *(run("fp32"), run("bf16", "train.precision=bf16")),
            ],
        )


def _data_options(task: Task, folder: Path) -> list[str]:
    """Return the data of the default config, digits; without scikit-learn a folder of random images."""
    if importlib.util.find_spec("sklearn") is not None:
        return ["eval.metrics=[modes1k]"]
    from PIL import Image

    task.note("data", used="random images, because scikit-learn is not installed")
    (folder / "images").mkdir()
    random = torch.Generator().manual_seed(0)
    for k, pixels in enumerate(torch.randint(256, (256, 16, 16), generator=random, dtype=torch.uint8)):
        Image.fromarray(pixels.numpy()).save(folder / "images" / f"{k}.png")
    return [
        f"data={{name: folder, root: '{folder / 'images'}', resolution: 16, channels: 1, conditional: false}}",
        "eval.metrics=[]",
    ]


def _train(task: Task, out: Path, *arguments: str) -> dict[str, object]:
    """Train the default config into a folder; return its last losses and its speed."""
    command = [sys.executable, "train_gan.py", "--out", str(out), "--device", task.device.type, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stdout, done.stderr, flush=True)
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-250:]}")
    lines = read_metrics(out)
    losses = {tag: [line[tag] for line in lines if tag in line][-1] for tag in ("loss/D", "loss/G")}
    speed = statistics.median(line["speed/images_per_s"] for line in lines if "speed/images_per_s" in line)
    return {"images/s": speed, **losses, "finite": all(map(math.isfinite, losses.values()))}


def _same_weights(a: Path, b: Path) -> bool:
    """Return whether the newest checkpoints of two runs are bit-equal."""
    leaves = [tree_leaves(load(max((run / "checkpoints").glob("step_*.pt")))) for run in (a, b)]
    return len(leaves[0]) == len(leaves[1]) and all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(*leaves, strict=True)
    )


def _side_by_side(task: Task, functions: list[Callable[[], None]]) -> None:
    """Call functions that wait for other processes; on a GPU all at the same time."""
    with ThreadPoolExecutor(len(functions) if task.on_cuda else 1) as pool:
        for future in [pool.submit(function) for function in functions]:
            with task.attempt("process"):
                future.result()
