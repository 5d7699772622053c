import io
import random

import pytest
import torch

from gan.config import Config
from gan.run import checkpoint
from gan.run.checkpoint import Checkpoints, load
from gan.run.options import CheckpointConfig
from gan.runtime.errors import UserError

CPU = torch.device("cpu")


def checkpoints_of(folder, keep=1, **changed) -> Checkpoints:
    return Checkpoints(folder, Config(checkpoint=CheckpointConfig(keep=keep), **changed))


def state(step: int) -> dict:
    return {"step": step, "best": None, "G": {"weight": torch.full((2,), float(step))}}


def test_the_newest_few_are_kept_beside_the_best(tmp_path):
    checkpoints = checkpoints_of(tmp_path, keep=2)
    for step in (1, 9, 10, 100):
        checkpoints.save(state(step))
        if step == 9:
            checkpoints.save_best(state(step))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best.pt", "step_00000010.pt", "step_00000100.pt"]
    assert load(tmp_path / "checkpoints" / "best.pt")["step"] == 9


def test_the_newest_is_loaded_whole(tmp_path):
    checkpoints = checkpoints_of(tmp_path, keep=3)
    for step in (9, 10):
        checkpoints.save(state(step))
    newest = checkpoints.load_newest(CPU)
    assert (newest["step"], newest["best"]) == (10, None)
    assert torch.equal(newest["G"]["weight"], torch.tensor([10.0, 10.0]))


def test_without_checkpoints_there_is_no_newest(tmp_path):
    assert checkpoints_of(tmp_path).load_newest(CPU) is None


def test_the_best_alone_is_not_the_newest(tmp_path):
    checkpoints = checkpoints_of(tmp_path)
    checkpoints.save_best(state(5))
    assert checkpoints.load_newest(CPU) is None


class Bomb:
    def __reduce__(self):
        return print, ("code ran",)


def whole(content) -> bytes:
    file = io.BytesIO()
    checkpoint.save(content, file)
    return file.getvalue()


def flipped(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


DAMAGE = {
    "nothing left": (lambda data: b"", "its checksum is missing or wrong"),
    "cut in half": (lambda data: data[: len(data) // 2], "its checksum is missing or wrong"),
    "without its last byte": (lambda data: data[:-1], "its checksum is missing or wrong"),
    "a bit of a weight": (lambda data: flipped(data, 8 * data.index(b"\x00\x00\x20\x41")), "its checksum is missing"),
    "by another program": (lambda data: data[: data.rindex(checkpoint.MARK)], "its checksum is missing or wrong"),
    "a pickle with code": (lambda data: whole({"step": 10, "G": Bomb()}), "contains objects other than tensors"),
    "no state": (lambda data: whole([1, 2]), "does not contain the state of a run"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_with_a_reason_and_runs_no_code(tmp_path, capsys, damage, reason):
    checkpoints = checkpoints_of(tmp_path, keep=2)
    for step in (9, 10):
        checkpoints.save(state(step))
    path = tmp_path / "checkpoints" / "step_00000010.pt"
    path.write_bytes(damage(path.read_bytes()))
    said = rf"continuing from step_00000009.pt: cannot read the checkpoint {path}: .*{reason}"
    with pytest.warns(UserWarning, match=said):
        assert checkpoints.load_newest(CPU)["step"] == 9
    (tmp_path / "checkpoints" / "step_00000009.pt").unlink()
    with pytest.raises(UserError, match=f"cannot read the checkpoint {path}: .*{reason}"):
        checkpoints.load_newest(CPU)
    assert "code ran" not in capsys.readouterr().out


def test_every_flipped_bit_is_noticed(tmp_path):
    data = whole(state(1) | {"config": ""})
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(data)
    load(path)
    for bit in random.Random(0).sample(range(8 * len(data)), 100):
        path.write_bytes(flipped(data, bit))
        with pytest.raises(UserError, match="its checksum is missing or wrong"):
            load(path)


def test_a_checkpoint_of_another_config_is_passed_over(tmp_path):
    checkpoints_of(tmp_path, seed=1).save(state(9))
    checkpoints_of(tmp_path, keep=2).save(state(8))
    with pytest.warns(UserWarning, match=r"step_00000009.pt: it belongs to another config \(different: seed\)"):
        assert checkpoints_of(tmp_path).load_newest(CPU)["step"] == 8
    checkpoints_of(tmp_path, seed=1).save_best(state(9))
    with pytest.raises(UserError, match=r"best.pt: it belongs to another config"):
        checkpoints_of(tmp_path).load_best(CPU)


def test_a_broken_one_does_not_count_among_those_kept(tmp_path):
    checkpoints = checkpoints_of(tmp_path, keep=1)
    checkpoints.save(state(10))
    (tmp_path / "checkpoints" / "step_00000010.pt").write_bytes(b"broken")
    checkpoints.save(state(8))
    with pytest.warns(UserWarning, match="continuing from step_00000008.pt"):
        assert checkpoints.load_newest(CPU)["step"] == 8
    checkpoints.save(state(10))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000010.pt"]
