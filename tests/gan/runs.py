"""Two runs compared bit for bit."""

from pathlib import Path
from typing import Any

import torch

from gan.config import Config
from gan.options.loader import load_config
from gan.run.checkpoint import Checkpoints, load
from gan.run.logging import read_metrics


def newest(folder: Path) -> dict[str, Any]:
    """The state in the newest checkpoint of a run."""
    return Checkpoints(folder, load_config(Config, folder / "config.yaml")).load_newest(torch.device("cpu"))


def numbers(folder: Path) -> list[dict]:
    """What a run has logged, but for its speed."""
    lines = read_metrics(folder)
    return [{tag: value for tag, value in line.items() if not tag.startswith("speed/")} for line in lines]


def same(a: Any, b: Any) -> bool:
    """Compare nested states bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_runs(a: Path, b: Path) -> None:
    """Hold all that two finished runs have computed against each other: numbers, states, samples, files."""
    assert numbers(a) == numbers(b)
    assert same(newest(a), newest(b))
    assert same(load(a / "checkpoints" / "best.pt"), load(b / "checkpoints" / "best.pt"))
    files = [sorted(path.name for path in folder.rglob("*.[ps][nta]*")) for folder in (a, b)]
    assert files[0] == files[1]
    for path in (*a.glob("samples/*.png"), a / "generator.safetensors"):
        assert path.read_bytes() == (b / path.relative_to(a)).read_bytes()
