"""A disk without room, a real one: what was written stays whole, and a line says what could not be written where."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gan.data.grids import save_png
from gan.run.checkpoint import load, save
from gan.run.logging import RunLogger, read_metrics
from gan.runtime.command import short_messages
from gan.runtime.files import WriteError, append, write_atomically
from train_gan import main

SIZE = 4 * 2**20


@pytest.fixture
def disk(tmp_path) -> Path:
    """A file system of its own, of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, left: int = 0) -> Path:
    """Leave so many bytes of room; return the file to remove."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free - left))
    return ballast


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("tensors", [1, 300], ids=["large", "small"])
def test_a_checkpoint_that_has_no_room_leaves_the_old_one(disk, tensors):
    path = disk / "state.pt"
    write_atomically(path, lambda file: save({"step": 1, "config": ""}, file))
    before = files(disk)
    ballast = fill(disk, 100_000)
    state = {str(i): torch.zeros(300_000 // tensors) for i in range(tensors)}
    with pytest.raises(WriteError, match=rf"^cannot write {path}: No space left on device$"):
        write_atomically(path, lambda file: save(state, file))
    ballast.unlink()
    assert files(disk) == before
    assert load(path) == {"step": 1, "config": ""}


def test_a_sample_that_has_no_room_leaves_no_half(disk):
    ballast = fill(disk, 8192)
    path = disk / "samples" / "step.png"
    with pytest.raises(WriteError, match=rf"^cannot write {path}: No space left on device$"):
        save_png(path, torch.randint(256, (3, 99, 99), dtype=torch.uint8))
    ballast.unlink()
    assert files(disk) == {}


def test_a_line_is_appended_whole_or_not_at_all(disk):
    path = disk / "lines"
    append(path, b"first\n")
    ballast = fill(disk, 8192)
    with pytest.raises(WriteError, match=rf"^cannot write {path}: No space left on device$"):
        append(path, b"x" * 20_000)
    ballast.unlink()
    append(path, b"second\n")
    assert path.read_bytes() == b"first\nsecond\n"


@pytest.mark.filterwarnings("default:cannot write TensorBoard")
def test_a_log_that_has_no_room_keeps_its_whole_lines(disk):
    with short_messages():
        logger = RunLogger(disk)
        logger.scalars({"step": 1}, {"loss": 1.0})
        ballast = fill(disk)
        with pytest.raises(WriteError, match=rf"^cannot write {disk}/metrics\.jsonl: No space left"):  # noqa: PT012
            for step in range(2, 1000):
                logger.scalars({"step": step}, {f"number {i}": 1.0 for i in range(40)})
        ballast.unlink()
        logger.close()
    assert [line["step"] for line in read_metrics(disk)] == list(range(1, step))
    assert (disk / "metrics.jsonl").read_bytes().endswith(b"}\n")


@pytest.mark.filterwarnings("default:cannot write TensorBoard")
@pytest.mark.parametrize(
    ("room", "arguments", "what"),
    [
        (60_000, ["eval.every=99"], r"checkpoints/(best|step_0000000\d)\.pt"),
        (6_000, ["eval.every=3", "checkpoint.every=99"], r"(samples/step_0000000\d\.png|checkpoints/best\.pt)"),
        (0, ["log.every=1", "eval.every=99", "checkpoint.every=99"], r"(metrics\.jsonl|config\.yaml)"),
    ],
    ids=["checkpoint", "sample", "log"],
)
def test_a_run_ends_with_one_line_and_goes_on_when_there_is_room(disk, tiny_run, room, arguments, what, capsys):
    folder = tiny_run(disk / "run", "train.steps=2")
    before = files(folder / "checkpoints")
    capsys.readouterr()
    ballast = fill(disk, room)
    go_on = ["--resume", "--out", str(folder), "--device", "cpu", "train.steps=40"]
    assert main([*go_on, *arguments]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    (line,) = err
    assert re.fullmatch(rf"error: cannot write (to --out )?{folder}(/{what})?: No space left on device", line)
    ballast.unlink()
    assert not [name for name in files(disk) if name.endswith(".tmp")]
    assert before.items() <= files(folder / "checkpoints").items()

    assert main([*go_on, "train.steps=4"]) == 0
    whole = tiny_run(disk.parent / "whole", "train.steps=4")
    ours, theirs = (load_file(run / "generator.safetensors") for run in (folder, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
