import contextlib
import errno
import io
import os
import random
import socket
from pathlib import Path

import pytest
import torch

from gan.config import Config
from gan.run.checkpoint import Checkpoints, load
from gan.run.options import CheckpointConfig
from gan.run.state import check_module
from gan.runtime import signed
from gan.runtime.errors import UserError

CPU = torch.device("cpu")


def build_checkpoints(folder, keep=1, **changed) -> Checkpoints:
    return Checkpoints(folder, Config(checkpoint=CheckpointConfig(keep=keep), **changed))


def load_newest(checkpoints) -> dict | None:
    return checkpoints.load_newest(CPU, dict)


def build_state(step: int) -> dict:
    return {"step": step, "best": None, "G": {"weight": torch.full((2,), float(step))}}


def test_newest_and_best_checkpoints_are_kept(tmp_path):
    checkpoints = build_checkpoints(tmp_path, keep=2)
    for step in (1, 9, 10, 100):
        checkpoints.save(build_state(step))
        if step == 9:
            checkpoints.save_best(build_state(step))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best.pt", "step_00000010.pt", "step_00000100.pt"]
    assert load(tmp_path / "checkpoints" / "best.pt")["step"] == 9


def test_load_newest(tmp_path):
    checkpoints = build_checkpoints(tmp_path, keep=3)
    for step in (9, 10):
        checkpoints.save(build_state(step))
    newest = load_newest(checkpoints)
    assert (newest["step"], newest["best"]) == (10, None)
    assert torch.equal(newest["G"]["weight"], torch.tensor([10.0, 10.0]))


def test_load_newest_without_checkpoints(tmp_path):
    assert load_newest(build_checkpoints(tmp_path)) is None


def test_load_newest_ignores_best(tmp_path):
    checkpoints = build_checkpoints(tmp_path)
    checkpoints.save_best(build_state(5))
    assert load_newest(checkpoints) is None


class Bomb:
    def __reduce__(self):
        return print, ("code ran",)


def serialize(content) -> bytes:
    file = io.BytesIO()
    signed.save(content, file)
    return file.getvalue()


def flip_bit(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


DAMAGE = {
    "empty": (lambda data: b"", "its checksum is missing or wrong"),
    "first half": (lambda data: data[: len(data) // 2], "its checksum is missing or wrong"),
    "last byte missing": (lambda data: data[:-1], "its checksum is missing or wrong"),
    "one bit of a weight": (
        lambda data: flip_bit(data, 8 * data.index(b"\x00\x00\x20\x41")),
        "its checksum is missing",
    ),
    "no checksum": (lambda data: data[: data.rindex(signed.MARK)], "its checksum is missing or wrong"),
    "pickle with code": (lambda data: serialize({"step": 10, "G": Bomb()}), "contains objects other than tensors"),
    "not a state": (lambda data: serialize([1, 2]), "does not contain the state of a run"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_checkpoint_is_skipped_and_not_executed(tmp_path, capsys, damage, reason):
    checkpoints = build_checkpoints(tmp_path, keep=2)
    for step in (9, 10):
        checkpoints.save(build_state(step))
    path = tmp_path / "checkpoints" / "step_00000010.pt"
    path.write_bytes(damage(path.read_bytes()))
    message = rf"continuing from step_00000009.pt: cannot read the checkpoint {path}: .*{reason}"
    with pytest.warns(UserWarning, match=message):
        assert load_newest(checkpoints)["step"] == 9
    (tmp_path / "checkpoints" / "step_00000009.pt").unlink()
    with pytest.raises(UserError, match=f"cannot read the checkpoint {path}: .*{reason}"):
        load_newest(checkpoints)
    assert "code ran" not in capsys.readouterr().out


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):  # a short name
        server.bind(path.name)


NO_FILES = {
    "folder": os.mkdir,
    "pipe": os.mkfifo,
    "socket": make_socket,
    "circular link": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nothing"),
}


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES)
def test_checkpoint_that_is_no_file_is_skipped(tmp_path, make):
    checkpoints = build_checkpoints(tmp_path, keep=2)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    make(folder / "step_00000010.pt")
    with pytest.raises(UserError, match=r"step_00000010.pt: .*; there is no other checkpoint"):
        load_newest(checkpoints)
    checkpoints.save(build_state(9))
    message = r"continuing from step_00000009.pt: cannot read the checkpoint .*step_00000010.pt: (not|No) "
    with pytest.warns(UserWarning, match=message):
        assert load_newest(checkpoints)["step"] == 9
    make(folder / "best.pt")
    with pytest.raises(UserError, match=r"best.pt: (not|No) "):
        checkpoints.load("best", CPU, dict)


def test_flipped_bit_is_detected(tmp_path):
    data = serialize(build_state(1) | {"config": ""})
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(data)
    load(path)
    for bit in random.Random(0).sample(range(8 * len(data)), 100):
        path.write_bytes(flip_bit(data, bit))
        with pytest.raises(UserError, match="its checksum is missing or wrong"):
            load(path)


def test_checkpoint_of_another_config_is_skipped(tmp_path):
    build_checkpoints(tmp_path, seed=1).save(build_state(9))
    build_checkpoints(tmp_path, keep=2).save(build_state(8))
    with pytest.warns(UserWarning, match=r"step_00000009.pt: it belongs to another config \(different: seed\)"):
        assert load_newest(build_checkpoints(tmp_path))["step"] == 8
    build_checkpoints(tmp_path, seed=1).save_best(build_state(9))
    with pytest.raises(UserError, match=r"best.pt: it belongs to another config"):
        build_checkpoints(tmp_path).load("best", CPU, dict)


def test_damaged_checkpoint_is_not_counted_as_kept(tmp_path):
    checkpoints = build_checkpoints(tmp_path, keep=1)
    checkpoints.save(build_state(10))
    (tmp_path / "checkpoints" / "step_00000010.pt").write_bytes(b"damaged")
    checkpoints.save(build_state(8))
    with pytest.warns(UserWarning, match="continuing from step_00000008.pt"):
        assert load_newest(checkpoints)["step"] == 8
    checkpoints.save(build_state(10))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000010.pt"]


def get_names(folder) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_files_of_the_user_are_neither_read_nor_removed(tmp_path):
    checkpoints = build_checkpoints(tmp_path, keep=1)
    checkpoints.save(build_state(4))
    own = ["step_good.pt", "step_00000004_keep.pt", "step_00000004.pt.bak", "step_4.pt", "step_000000099.pt"]
    own += ["step_٠٠٠٠٠٠٩٩.pt", "Step_00000099.pt", "step_99999999"]
    for name in own:
        (tmp_path / "checkpoints" / name).write_bytes((tmp_path / "checkpoints" / "step_00000004.pt").read_bytes())
    (tmp_path / "checkpoints" / "step_00000001.pt").mkdir()
    os.mkfifo(tmp_path / "checkpoints" / "step_00000009.pt")
    checkpoints.save(build_state(5))
    with pytest.warns(UserWarning, match=r"continuing from step_00000005.pt: .*step_00000009.pt: not a regular file"):
        assert load_newest(checkpoints)["step"] == 5
    assert get_names(tmp_path) == sorted([*own, "step_00000001.pt", "step_00000005.pt", "step_00000009.pt"])


def test_checkpoints_are_ordered_by_number(tmp_path):
    checkpoints = build_checkpoints(tmp_path, keep=2)
    for step in (99_999_998, 99_999_999, 100_000_000):
        checkpoints.save(build_state(step))
    assert load_newest(checkpoints)["step"] == 100_000_000
    assert get_names(tmp_path) == ["step_100000000.pt", "step_99999999.pt"]


def test_checkpoint_with_the_name_of_another_step_is_skipped(tmp_path):
    checkpoints = build_checkpoints(tmp_path)
    checkpoints.save(build_state(4))
    copy = tmp_path / "checkpoints" / "step_00000099.pt"
    copy.write_bytes((tmp_path / "checkpoints" / "step_00000004.pt").read_bytes())
    with pytest.warns(UserWarning, match=r"step_00000099.pt: it contains another step than its name says \(4\)"):
        assert load_newest(checkpoints)["step"] == 4


def test_checkpoint_of_another_format_is_skipped(tmp_path, monkeypatch):
    checkpoints = build_checkpoints(tmp_path, keep=2)
    checkpoints.save(build_state(4))
    with monkeypatch.context() as patch:
        patch.setattr("gan.run.checkpoint.FORMAT", 2)
        checkpoints.save(build_state(5))
    with pytest.warns(UserWarning, match=r"step_00000005.pt: it has the format 2 of another version"):
        assert load_newest(checkpoints)["step"] == 4


def test_state_that_does_not_fit_is_skipped(tmp_path):
    def refuse(state):
        if state["step"] == 5:
            raise ValueError("its entry D is missing")
        return state["step"]

    checkpoints = build_checkpoints(tmp_path, keep=2)
    for step in (4, 5):
        checkpoints.save(build_state(step))
    with pytest.warns(UserWarning, match=r"continuing from step_00000004.pt: cannot use .*: its entry D is missing"):
        assert checkpoints.load_newest(CPU, refuse) == 4


def test_lack_of_memory_is_no_fault_of_a_checkpoint(tmp_path, monkeypatch):
    checkpoints = build_checkpoints(tmp_path, keep=2)
    for step in (4, 5):
        checkpoints.save(build_state(step))

    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("torch.load", fail)
    with pytest.raises(MemoryError):
        load_newest(checkpoints)


NOT_READ = {
    "memory": lambda: torch.empty(2**60),  # a plain RuntimeError
    "new disk": lambda: fail(OSError(errno.ESTALE, "Stale file handle")),
    "broken disk": lambda: fail(OSError(errno.EIO, "Input/output error")),
    "too many files": lambda: fail(OSError(errno.EMFILE, "Too many open files")),
    "permission": lambda: fail(PermissionError(errno.EACCES, "Permission denied")),
}


def fail(error):
    raise error


@pytest.mark.parametrize("fault", NOT_READ.values(), ids=NOT_READ)
def test_checkpoint_that_cannot_be_read_now_is_not_skipped(tmp_path, monkeypatch, fault):
    checkpoints = build_checkpoints(tmp_path, keep=2)
    for step in (9, 10):
        checkpoints.save(build_state(step))
    monkeypatch.setattr("gan.runtime.signed._verify_checksum", lambda file, name: fault())
    with pytest.raises((RuntimeError, OSError), match=r"allocate memory|Errno"):
        load_newest(checkpoints)


def test_lack_of_memory_is_no_fault_of_a_state():
    module = torch.nn.Linear(2, 2)
    module.register_load_state_dict_pre_hook(lambda *_: torch.empty(2**60))
    with pytest.raises(RuntimeError, match="allocate memory"):
        check_module("G", module, {"G": torch.nn.Linear(2, 2).state_dict()})


class OnDevice(torch.nn.Parameter):
    def __deepcopy__(self, memo):
        raise AssertionError("copied on its device")


def test_state_is_checked_without_a_copy_on_the_device():
    module = torch.nn.Linear(2, 2)
    module.weight = OnDevice(torch.ones(2, 2))
    check_module("G", module, {"G": torch.nn.Linear(2, 2).state_dict()})
    assert torch.equal(module.weight, torch.ones(2, 2))
    with pytest.raises(ValueError, match="its entry G does not fit: size mismatch"):
        check_module("G", module, {"G": torch.nn.Linear(3, 2).state_dict()})
