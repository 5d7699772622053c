import fcntl
import os
import socket
from pathlib import Path

import pytest
import torch

from gan.config import Config
from gan.run.checkpoint import Checkpoints
from gan.run.divergence import record_divergence
from gan.run.folder import write_config
from gan.run.lock import hold_lock, locked
from gan.run.logging import RunLogger
from gan.runtime.errors import UserError
from gan.runtime.files import WriteError
from gan.runtime.temporary import name_temporary
from tests.gan.runs import read_numbers
from train_gan import main

pytestmark = pytest.mark.usefixtures("short_slope_search")

HERE = f"process {os.getpid()} on {socket.gethostname()}"


def read_files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_second_process_is_refused_and_changes_nothing(tmp_path, tiny_config, tiny_run, capsys):
    folder = tiny_run(tmp_path / "run", "train.steps=1")
    with locked(folder):
        before = read_files(folder)
        capsys.readouterr()
        assert main(["--out", str(folder), "--device", "cpu", "--resume", "train.steps=9"]) == 2
        assert capsys.readouterr().err == f"error: {folder} is in use by {HERE}; stop that process first\n"
        assert read_files(folder) == before
    assert not (folder / ".lock").exists()
    tiny_run(folder, "--resume", "train.steps=2")
    assert read_numbers(folder)[-1]["step"] == 2


def test_new_run_is_refused_if_another_started_after_its_check(tmp_path, tiny_config, tiny_run, monkeypatch, capsys):
    """Both runs find an empty folder. The other run finishes before this run locks it."""
    checks = []

    def train_another(folder):
        checks.append(folder)
        if len(checks) == 1:
            monkeypatch.setattr("gan.run.selection.run_folder.check_free", check_free)
            tiny_run(tmp_path / "run", "seed=1", "train.steps=1")

    from gan.run.folder import check_free

    monkeypatch.setattr("gan.run.selection.run_folder.check_free", train_another)
    assert main(["--config", str(tiny_config), "--out", str(tmp_path / "run"), "--device", "cpu"]) == 2
    assert "already contains a run; add --resume" in capsys.readouterr().err


KILLED = """\
import os, sys
from pathlib import Path
from gan.run.lock import locked
with locked(Path(sys.argv[1])):
    print(f"process {os.getpid()}", flush=True)
    os.kill(os.getpid(), 9)
"""


def test_lock_of_a_killed_process_is_free_and_its_temporary_files_are_removed(tmp_path, python, tiny_run, capsys):
    folder = tmp_path / "run"
    killed = python.run("-c", KILLED, folder)
    assert killed.returncode == -9
    assert (folder / ".lock").exists()
    pid = killed.stdout.split()[1]
    leftover = name_temporary(folder / "config.yaml")
    leftover.with_name(leftover.name.replace(f"-{os.getpid()}-", f"-{pid}-")).touch()
    tiny_run(folder, "train.steps=1")
    holder = killed.stdout.strip()
    assert f"{folder}: {holder} on {socket.gethostname()} did not end normally, or this is a copy of " in (
        capsys.readouterr().out
    )
    assert not list(folder.rglob(".*"))


@pytest.mark.parametrize("name", [".thesis", ".notes.tmp"])
def test_other_hidden_files_are_not_removed(tmp_path, tiny_config, capsys, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).touch()
    with locked(tmp_path / "run"):
        pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == [name]
    assert main(["--config", str(tiny_config), "--out", str(tmp_path / "run"), "--device", "cpu"]) == 2
    assert "is not an empty folder" in capsys.readouterr().err


ONE_AT_A_TIME = """\
import os, sys
from pathlib import Path
from gan.runtime.errors import UserError
from gan.run.lock import locked
folder, entered = Path(sys.argv[1]), 0
while entered < 200:
    try:
        with locked(folder):
            os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
            os.unlink(folder / "inside")
            entered += 1
    except UserError:
        pass
"""


HOLDS_A_SECOND = """\
import sys, time
from pathlib import Path
from gan.run.lock import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(1)
"""


def test_at_most_one_process_holds_the_lock(tmp_path, python):
    processes = [python.start("-c", ONE_AT_A_TIME, tmp_path / "run") for _ in range(4)]
    for done in [process.wait() for process in processes]:
        assert done.returncode == 0, done.stderr


def test_hold_lock_waits_for_the_holder(tmp_path, python):
    with hold_lock(tmp_path / "a.lock"):
        with pytest.raises(UserError, match=f"{tmp_path}/a is in use by {HERE}"), hold_lock(tmp_path / "a.lock", 0.2):
            pass
        with hold_lock(tmp_path / "b.lock"):
            pass
    process = python.start("-c", HOLDS_A_SECOND, tmp_path / "a.lock")
    process.wait_for(lambda: process.stdout == "held\n")
    with hold_lock(tmp_path / "a.lock", 60):
        assert (tmp_path / "a.lock").read_text() == HERE
    process.wait()
    assert not list(tmp_path.iterdir())


def test_run_is_not_refused_while_another_process_asks_for_the_lock(tmp_path, monkeypatch):
    (tmp_path / ".lock").touch()
    with open(tmp_path / ".lock", "rb") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)  # as `is_locked` does
        monkeypatch.setattr("gan.run.lock.time.sleep", lambda _: fcntl.flock(asking, fcntl.LOCK_UN))
        with locked(tmp_path):
            assert (tmp_path / ".lock").read_text() == HERE


@pytest.mark.parametrize(
    "make",
    [
        lambda path, file: path.symlink_to(file),
        lambda path, file: path.hardlink_to(file),
        lambda path, _: os.mkfifo(path),
    ],
)
def test_lock_that_is_a_link_or_pipe_is_refused(tmp_path, make):
    (tmp_path / "thesis").write_text("thesis")
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / ".lock", tmp_path / "thesis")
    with pytest.raises(UserError, match=r"run/\.lock is a link.*; remove it"), locked(tmp_path / "run"):
        pass
    assert (tmp_path / "thesis").read_text() == "thesis"


@pytest.mark.parametrize("content", [b"PID 12", b"\xff", b"process x on y", b"process 1 on y\nmy notes"])
def test_lock_file_of_another_program_is_refused_and_kept(tmp_path, content):
    (tmp_path / ".lock").write_bytes(content)
    with pytest.raises(UserError, match=r"\.lock is a file of another program; move it"), locked(tmp_path):
        pass
    assert (tmp_path / ".lock").read_bytes() == content


def test_name_of_the_holder_is_shortened_and_has_no_control_characters(tmp_path, capsys):
    (tmp_path / ".lock").write_text("process 1 on \x1b]0;title\x07" + 10_000 * "x")
    with locked(tmp_path):
        pass
    out = capsys.readouterr().out
    assert r"\x1b]0;title\x07xxx" in out
    assert "\x1b" not in out
    assert len(out) < 1000


def test_file_system_without_locks_is_a_warning(tmp_path, monkeypatch):
    def no_locks(file, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match=r"cannot be locked \(Operation not supported\)"), locked(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text() == HERE


def test_folder_that_cannot_be_created_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"cannot write to --out .*: Not a directory"),
        locked(tmp_path / "file" / "run"),
    ):
        pass


def test_holder_that_has_not_written_its_name_is_another_process(tmp_path):
    with hold_lock(tmp_path / "a.lock"):
        (tmp_path / "a.lock").write_bytes(b"")
        with pytest.raises(UserError, match="a is in use by another process;"), hold_lock(tmp_path / "a.lock"):
            pass


def test_full_disk_leaves_no_lock_file(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gan.run.lock.socket.gethostname", full)  # as the following write would
    with pytest.raises(UserError, match="No space left on device"), locked(tmp_path / "run"):
        pass
    assert not list((tmp_path / "run").iterdir())


WRITES = {
    "log": lambda folder: RunLogger(folder, to=()),
    "entry": lambda folder: LOGGERS[folder].scalars({"step": 1}, {"loss": 1.0}),
    "image": lambda folder: LOGGERS[folder].image("samples", 1, torch.zeros(3, 2, 2, dtype=torch.uint8)),
    "log on the disk": lambda folder: LOGGERS[folder].sync(),
    "checkpoint": lambda folder: Checkpoints(folder, Config()).save({"step": 1}),
    "best checkpoint": lambda folder: Checkpoints(folder, Config()).save_best({"step": 1}),
    "config": lambda folder: write_config(folder, Config()),
    "divergence": lambda folder: record_divergence(folder, 1, ["loss/D"], "stopped"),
}
LOGGERS: dict[Path, RunLogger] = {}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_nothing_is_written_to_a_folder_that_was_moved(tmp_path, write):
    folder, moved = tmp_path / "run", tmp_path / "moved"
    with locked(folder):
        LOGGERS[folder] = RunLogger(folder, to=())
        folder.rename(moved)
        with pytest.raises(UserError, match=f"^{folder} was moved or removed while this process"):
            write(folder)
    assert not folder.exists()
    assert read_files(moved).keys() == {moved / ".lock", moved / "metrics.jsonl"}


def test_nothing_is_written_after_the_lock_was_removed(tmp_path, python):
    folder = tmp_path / "run"
    with locked(folder):
        logger = RunLogger(folder, to=())
        (folder / ".lock").unlink()
        other = python.start("-c", HOLDS_A_SECOND.replace("sleep(1)", "sleep(600)"), folder / ".lock")
        other.wait_for(lambda: other.stdout == "held\n")
        before = read_files(folder)
        with pytest.raises(UserError, match=f"^the lock file of {folder} was removed while"):
            logger.scalars({"step": 1}, {"loss": 1.0})
    assert read_files(folder) == before  # also the lock file, which is that of the other process
    other.kill()


def test_lock_does_not_hide_the_error_of_a_disk_that_cannot_be_written_to(tmp_path, monkeypatch):
    def refuse(path, missing_ok=False):
        raise OSError(30, "Read-only file system", str(path))

    with pytest.raises(WriteError, match="cannot write metrics"), locked(tmp_path / "run"):  # noqa: PT012
        monkeypatch.setattr(Path, "unlink", refuse)
        raise WriteError(30, "Read-only file system", "metrics.jsonl")
