"""Runs on a full disk: existing files stay complete, and a message names the file that cannot be written."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gan.data.grids import save_png
from gan.run.checkpoint import load
from gan.run.logging import RunLogger, read_metrics
from gan.runtime import signed
from gan.runtime.command import short_messages
from gan.runtime.files import WriteError, append, write_atomically
from tests.gan.runs import read_files
from train_gan import main

pytestmark = pytest.mark.usefixtures("short_slope_search")

SIZE = 4 * 2**20


@pytest.fixture
def disk(tmp_path) -> Path:
    """Return a separate file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, free: int = 0) -> Path:
    """Fill a disk except for `free` bytes, and return the file that fills it."""
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - free))
    return filler


@pytest.mark.parametrize("tensors", [1, 300], ids=["large", "small"])
def test_checkpoint_on_full_disk_leaves_the_old_one(disk, tensors):
    path = disk / "state.pt"
    write_atomically(path, lambda file: signed.save({"step": 1, "config": ""}, file))
    before = read_files(disk)
    filler = fill(disk, 100_000)
    state = {str(i): torch.zeros(300_000 // tensors) for i in range(tensors)}
    with pytest.raises(WriteError, match=rf"^cannot write {path}: No space left on device$"):
        write_atomically(path, lambda file: signed.save(state, file))
    filler.unlink()
    assert read_files(disk) == before
    assert load(path) == {"step": 1, "config": ""}


def test_image_on_full_disk_leaves_no_file(disk):
    filler = fill(disk, 8192)
    path = disk / "samples" / "step.png"
    with pytest.raises(WriteError, match=rf"^cannot write {path}: No space left on device$"):
        save_png(path, torch.randint(256, (3, 99, 99), dtype=torch.uint8))
    filler.unlink()
    assert read_files(disk) == {}


def test_append_on_full_disk_writes_nothing(disk):
    path = disk / "lines"
    append(path, b"first\n")
    filler = fill(disk, 8192)
    with pytest.raises(WriteError, match=rf"^cannot write {path}: No space left on device$"):
        append(path, b"x" * 20_000)
    filler.unlink()
    append(path, b"second\n")
    assert path.read_bytes() == b"first\nsecond\n"


@pytest.mark.filterwarnings("ignore:cannot log to tensorboard")  # which has its own files on the disk
def test_log_on_full_disk_keeps_complete_lines(disk):
    with short_messages():
        logger = RunLogger(disk)
        logger.scalars({"step": 1}, {"loss": 1.0})
        filler = fill(disk)
        with pytest.raises(WriteError, match=rf"^cannot write {disk}/metrics\.jsonl: No space left"):  # noqa: PT012
            for step in range(2, 1000):
                logger.scalars({"step": step}, {f"number {i}": 1.0 for i in range(40)})
        filler.unlink()
        logger.close()
    assert [line["step"] for line in read_metrics(disk)] == list(range(1, step))
    assert (disk / "metrics.jsonl").read_bytes().endswith(b"}\n")


@pytest.fixture(scope="module")
def uninterrupted_weights(finished_run) -> dict[str, torch.Tensor]:
    """Return the weights of the generator after the run of the tiny config."""
    return load_file(finished_run / "generator.safetensors")


@pytest.mark.filterwarnings("ignore:cannot log to tensorboard")  # which has its own files on the disk
@pytest.mark.parametrize(
    ("free", "arguments", "file"),
    [
        (60_000, ["eval.every=99"], r"checkpoints/(best|step_0000000\d)\.pt"),
        (6_000, ["eval.every=3", "checkpoint.every=99"], r"(samples/step_0000000\d\.png|checkpoints/best\.pt)"),
        (0, ["log.every=1", "eval.every=99", "checkpoint.every=99"], r"(metrics\.jsonl|config\.yaml)"),
    ],
    ids=["checkpoint", "sample", "log"],
)
def test_run_on_full_disk_prints_one_line_and_can_be_resumed(
    disk, tiny_run, uninterrupted_weights, free, arguments, file, capsys
):
    folder = tiny_run(disk / "run", "train.steps=2")
    before = read_files(folder / "checkpoints")
    capsys.readouterr()
    filler = fill(disk, free)
    resume = ["--resume", "--out", str(folder), "--device", "cpu"]
    assert main([*resume, "train.steps=40", *arguments]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert re.fullmatch(rf"error: cannot write (to --out )?{folder}(/{file})?: No space left on device", line)
    filler.unlink()
    assert not [name for name in read_files(disk) if name.endswith(".tmp")]
    assert before.items() <= read_files(folder / "checkpoints").items()

    assert main([*resume, "train.steps=4"]) == 0
    weights = load_file(folder / "generator.safetensors")
    assert weights.keys() == uninterrupted_weights.keys()
    assert all(torch.equal(weights[name], uninterrupted_weights[name]) for name in weights)
