import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gan.run.lock import locked
from gan.runtime.errors import UserError
from tests.gan.runs import numbers
from train_gan import main

ROOT = Path(__file__).parents[3]
HERE = f"process {os.getpid()} on {socket.gethostname()}"


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_in_a_folder_is_refused_and_changes_nothing(tmp_path, tiny_config, tiny_run, capsys):
    folder = tiny_run(tmp_path / "run")
    with locked(folder):
        before = files_below(folder)
        capsys.readouterr()
        assert main(["--out", str(folder), "--device", "cpu", "--resume", "train.steps=9"]) == 2
        assert capsys.readouterr().err == f"error: {folder} is in use by {HERE}; end that first\n"
        assert files_below(folder) == before
    assert not (folder / ".lock").exists()
    tiny_run(folder, "--resume", "train.steps=5")
    assert numbers(folder)[-1]["step"] == 5


def test_a_new_run_does_not_enter_where_another_has_just_begun(tmp_path, tiny_config, tiny_run, monkeypatch, capsys):
    """Both have found the folder empty, and the other one is done before this one has built its networks."""
    looks = []

    def look(folder):
        looks.append(folder)
        if len(looks) == 1:
            monkeypatch.setattr("gan.run.cli.run_folder.check_free", check_free)
            tiny_run(tmp_path / "run", "seed=1")

    from gan.run.folder import check_free

    monkeypatch.setattr("gan.run.cli.run_folder.check_free", look)
    assert main(["--config", str(tiny_config), "--out", str(tmp_path / "run"), "--device", "cpu"]) == 2
    assert "holds a run already; add --resume" in capsys.readouterr().err


KILLED = """\
import os, sys
from pathlib import Path
from gan.run.lock import locked
with locked(Path(sys.argv[1])):
    print(f"process {os.getpid()}", flush=True)
    os.kill(os.getpid(), 9)
"""


def test_the_lock_of_a_killed_process_is_noticed_and_its_leftovers_are_removed(tmp_path, tiny_run, capsys):
    folder = tmp_path / "run"
    killed = subprocess.run([sys.executable, "-c", KILLED, folder], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert killed.returncode == -9
    assert (folder / ".lock").exists()
    (folder / ".config.yaml.x.tmp").touch()
    tiny_run(folder, "train.steps=1")
    holder = killed.stdout.strip()
    assert f"{folder}: taking over from {holder} on {socket.gethostname()}, which has ended without a word\n" in (
        capsys.readouterr().out
    )
    assert not list(folder.rglob(".*"))


def test_files_of_others_are_not_taken_for_leftovers(tmp_path, tiny_config, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".thesis").touch()
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


def test_of_many_processes_one_at_a_time_is_inside(tmp_path):
    command = [sys.executable, "-c", ONE_AT_A_TIME, tmp_path / "run"]
    processes = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:  # none waits for another
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch):
    def no_locks(file, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match=r"cannot be locked \(Operation not supported\)"), locked(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text() == HERE


def test_a_folder_that_cannot_be_made_is_a_users_error(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"cannot write to --out .*: Not a directory"),
        locked(tmp_path / "file" / "run"),
    ):
        pass


def test_a_lock_that_has_no_room_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gan.run.lock.socket.gethostname", full)  # as the write that follows would
    with pytest.raises(UserError, match="No space left on device"), locked(tmp_path / "run"):
        pass
    assert not list((tmp_path / "run").iterdir())
