"""Helpers that resume, read and compare runs."""

from pathlib import Path
from typing import Any

import torch

from gan.run.checkpoint import load
from gan.run.logging import read_metrics
from train_gan import main


class Killed(Exception):
    """Raised inside a run in place of a real kill."""


def resume(folder: Path, *arguments: str) -> None:
    """Resume the GAN run in `folder` and train it to its last step."""
    assert main(["--out", str(folder), "--device", "cpu", "--resume", *arguments]) == 0


def load_newest(folder: Path) -> dict[str, Any]:
    """Return the state in the newest checkpoint of a run."""
    return load(max((folder / "checkpoints").glob("step_*.pt")))


def read_numbers(folder: Path) -> list[dict[str, Any]]:
    """Return the logged numbers of a run, one dict by tag for each step, without its speed."""
    lines = read_metrics(folder)
    return [{tag: value for tag, value in line.items() if not tag.startswith("speed/")} for line in lines]


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files in a folder and its subfolders, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(a: Any, b: Any) -> bool:
    """Return whether two nested states are bit-equal."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_runs(a: Path, b: Path) -> None:
    """Check that two finished runs of a GAN or a classifier have bit-equal numbers, states, samples and weights."""
    assert read_numbers(a) == read_numbers(b)
    assert same(load_newest(a), load_newest(b))
    best = [load(folder / "checkpoints" / "best.pt") for folder in (a, b)]
    for state in best:
        del state["config"]  # of the session that saved it, whose train.steps may differ
    assert same(*best)
    files = [sorted(path.name for path in folder.rglob("*.[ps][nta]*")) for folder in (a, b)]
    assert files[0] == files[1]
    (weights,) = a.glob("*.safetensors")
    for path in (*a.glob("samples/*.png"), weights):
        assert path.read_bytes() == (b / path.relative_to(a)).read_bytes()
