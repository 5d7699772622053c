import json

import pytest

from gan.run.evaluations import Evaluations
from gan.runtime.errors import UserError
from metrics.estimate import Estimate

ADD = """\
import sys
from pathlib import Path
from gan.run.evaluations import Evaluations
evaluations = Evaluations(Path(sys.argv[1]), None)
for seed in range(20):
    evaluations.add("step_1", int(sys.argv[2]) + seed, {"fid": float(seed)}, {"fid": "x"})
"""


def test_results_of_several_processes_are_merged(python, tmp_path):
    path = tmp_path / "evaluation.json"
    processes = [python.start("-c", ADD, path, first) for first in (0, 100, 200)]
    assert [process.wait().returncode for process in processes] == [0, 0, 0]
    assert len(json.loads(path.read_text())["step_1"]["fid"]) == 60
    assert [file.name for file in tmp_path.iterdir()] == ["evaluation.json"]


def test_moved_folder_is_not_made_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    evaluations = Evaluations(folder / "evaluation.json", None)
    evaluations.add("step_1", 0, {"fid": 1.0}, {"fid": "x"})
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="was moved or removed"):
        evaluations.add("step_1", 1, {"fid": 2.0}, {"fid": "x"})
    assert not folder.exists()


def test_only_numbers_with_the_same_fingerprints_are_found(tmp_path):
    evaluations = Evaluations(tmp_path / "evaluation.json", None)
    evaluations.add("step_1", 0, {"fid": 1.5, "kid": Estimate(0.1, 0.02)}, {"fid": "a", "kid": "b"})
    found = evaluations.find("step_1", 0, {"fid": "a", "kid": "b"})
    assert found == {"fid": 1.5, "kid": 0.1}
    assert found["kid"].std == 0.02
    assert evaluations.find("step_1", 0, {"fid": "a"}) == {"fid": 1.5}
    for step, seed, fingerprints in [
        ("step_2", 0, {"fid": "a"}),
        ("step_1", 1, {"fid": "a"}),
        ("step_1", 0, {"fid": "b"}),
    ]:
        assert evaluations.find(step, seed, fingerprints) == {}
    assert evaluations.find("step_1", 0, {"fid": "a", "kid": "a", "is": "a"}) == {"fid": 1.5}


@pytest.mark.parametrize("wrong", ["0.5", True, None, [0.5], float("nan"), float("inf"), 10**400])
@pytest.mark.parametrize("of", ["value", "std"])
def test_values_that_are_no_finite_numbers_are_not_found(tmp_path, of, wrong):
    path = tmp_path / "evaluation.json"
    evaluations = Evaluations(path, None)
    evaluations.add("step_1", 0, {"kid": Estimate(0.1, 0.02)}, {"kid": "a"})
    results = json.loads(path.read_text())
    (results if of == "value" else results["std"])["step_1"]["kid"]["0"] = wrong
    path.write_text(json.dumps(results))
    found = evaluations.find("step_1", 0, {"kid": "a"})
    assert found == ({"kid": 0.1} if (of, wrong) == ("std", None) else {})


def test_standard_deviation_of_a_replaced_value_is_removed(tmp_path):
    evaluations = Evaluations(tmp_path / "evaluation.json", None)
    evaluations.add("step_1", 0, {"kid": Estimate(0.1, 0.02)}, {"kid": "a"})
    evaluations.add("step_1", 1, {"kid": Estimate(0.3, 0.04)}, {"kid": "a"})
    evaluations.add("step_1", 0, {"kid": 0.2}, {"kid": "b"})
    assert not isinstance(evaluations.find("step_1", 0, {"kid": "b"})["kid"], Estimate)
    assert evaluations.find("step_1", 1, {"kid": "a"})["kid"].std == 0.04
