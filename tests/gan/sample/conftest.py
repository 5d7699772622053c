import pytest


@pytest.fixture
def run_folder(tmp_path, finished_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return finished_run


@pytest.fixture
def conditional_folder(tmp_path, tiny_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tiny_run(tmp_path / "run", "train.steps=1", "data.conditional=true", "eval.metrics=[]")
