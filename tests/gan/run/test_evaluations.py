import json

import pytest

from gan.run.evaluations import Evaluations
from gan.runtime.errors import UserError

ADD = """\
import sys
from pathlib import Path
from gan.run.evaluations import Evaluations
evaluations = Evaluations(Path(sys.argv[1]), None)
for seed in range(20):
    evaluations.add("step_1", int(sys.argv[2]) + seed, {"fid": float(seed)})
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
    evaluations.add("step_1", 0, {"fid": 1.0})
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="was moved or removed"):
        evaluations.add("step_1", 1, {"fid": 2.0})
    assert not folder.exists()
