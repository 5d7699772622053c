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
        ("step_1", 0, {"fid": "a", "is": "a"}),
    ]:
        assert evaluations.find(step, seed, fingerprints) is None
