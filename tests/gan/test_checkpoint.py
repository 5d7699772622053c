import pytest
import torch

from gan.checkpoint import Checkpoints, load
from gan.errors import UserError


def state(step: int) -> dict:
    return {"step": step, "best": None, "G": {"weight": torch.full((2,), float(step))}}


def test_the_newest_few_are_kept_beside_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 9, 10, 100):
        checkpoints.save(state(step))
        if step == 9:
            checkpoints.save_best(state(step))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best.pt", "step_00000010.pt", "step_00000100.pt"]
    assert load(tmp_path / "checkpoints" / "best.pt")["step"] == 9


def test_the_newest_is_loaded_whole(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (9, 10):
        checkpoints.save(state(step))
    newest = checkpoints.load_newest(torch.device("cpu"))
    assert (newest["step"], newest["best"]) == (10, None)
    assert torch.equal(newest["G"]["weight"], torch.tensor([10.0, 10.0]))


def test_without_checkpoints_there_is_no_newest(tmp_path):
    assert Checkpoints(tmp_path, keep=1).load_newest(torch.device("cpu")) is None


def test_the_best_alone_is_not_the_newest(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save_best(state(5))
    assert checkpoints.load_newest(torch.device("cpu")) is None


@pytest.mark.parametrize("cut", [0, 100])
def test_a_broken_file_is_a_users_error(tmp_path, cut):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(state(5))
    path = tmp_path / "checkpoints" / "step_00000005.pt"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=rf"cannot read the checkpoint {path}: \w+"):
        checkpoints.load_newest(torch.device("cpu"))


class Bomb:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_checkpoint_runs_no_code(tmp_path, capsys):
    torch.save({"step": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(UserError, match="cannot read"):
        load(tmp_path / "bomb.pt")
    assert "code ran" not in capsys.readouterr().out
