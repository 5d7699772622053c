"""The writer for MLflow, with a stand-in for the package and, where it is installed, with a database of MLflow."""

import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from gan.run.logging import RunLogger
from gan.run.writers.base import flatten

CONFIG = f"train: {{steps: 4, precision: fp32}}\nlog:\n  to: [mlflow]\nlong: {'x' * 1000}\n"


def log(folder, start, steps, is_complete=True):
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(CONFIG)
    logger = RunLogger(folder, start, to=("mlflow",))
    for step in steps:
        counters = {"step": step, "images": 16 * step}
        logger.scalars(counters, {"loss/D": step / 3, "lipschitz/D/layers/0[a]": 1.0})
        logger.histograms(step, {"spectra/layer": torch.arange(10.0)})
        if step % 2 == 0:
            logger.image("samples", step, torch.zeros(3, 8, 6, dtype=torch.uint8))
            logger.scalars(counters, {"metrics/fd": 10.0 * step})
    logger.close(is_complete)


class Client:
    """A store with the methods of MlflowClient that the writer calls."""

    def __init__(self):
        self.experiments, self.runs, self.artifacts = {}, {}, {}

    def get_experiment_by_name(self, name):
        if name in self.experiments:
            return SimpleNamespace(experiment_id=name, artifact_location=self.experiments[name])
        return None

    def create_experiment(self, name, artifacts):
        self.experiments[name] = artifacts
        return name

    def create_run(self, experiment, tags, run_name):
        run = SimpleNamespace(tags=tags, name=run_name, status="RUNNING", metrics=[], params={}, experiment=experiment)
        self.runs[name := f"run{len(self.runs)}"] = run
        return SimpleNamespace(info=SimpleNamespace(run_id=name))

    def search_runs(self, experiments, query, max_results):
        tag, _, value = query.removeprefix("tags.").partition(" = ")
        found = [name for name, run in self.runs.items() if run.tags[tag.strip("`")] == value.strip("'")]
        return [SimpleNamespace(info=SimpleNamespace(run_id=name)) for name in found][:max_results]

    def update_run(self, run, status):
        self.runs[run].status = status

    set_terminated = update_run

    def log_batch(self, run, metrics=(), params=()):
        assert len(params) <= 100
        self.runs[run].metrics += metrics
        self.runs[run].params.update(params)

    def log_artifact(self, run, path):
        self.artifacts[Path(path).name] = Path(path).read_text()

    def log_image(self, run, image, path):
        self.artifacts[path] = image.shape

    def log_dict(self, run, values, path):
        self.artifacts[path] = json.loads(json.dumps(values))


@pytest.fixture
def mlflow(monkeypatch) -> dict[str, Client]:
    """Install a stand-in for MLflow. Returns its stores by URI."""
    stores = defaultdict(Client)
    module, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    module.MlflowClient, module.MlflowException = stores.__getitem__, type("MlflowException", (Exception,), {})
    entities.Metric = lambda key, value, timestamp, step: (key, value, step)
    entities.Param = lambda key, value: (key, value)
    module.entities = entities
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    for name in ("TRACKING_URI", "EXPERIMENT_NAME", "DISABLE_TELEMETRY", "LOGGING_LEVEL"):
        monkeypatch.setenv(f"MLFLOW_{name}", "")
        monkeypatch.delenv(f"MLFLOW_{name}")
    return stores


def test_run_has_the_config_and_all_values(tmp_path, mlflow, capsys):
    log(tmp_path / "first", 0, range(1, 3))
    ((uri, store),) = mlflow.items()
    assert uri == f"sqlite:///{tmp_path}/first/mlflow/mlflow.db"
    assert store.experiments == {"convnorm-gan": (tmp_path / "first" / "mlflow" / "artifacts").as_uri()}
    (run,) = store.runs.values()
    assert (run.name, run.status) == ("first", "FINISHED")
    expected = {"train.steps": "4", "train.precision": "fp32", "log.to": "['mlflow']", "long": "x" * 500}
    assert run.params == expected
    assert sorted(run.metrics) == sorted(
        [
            *(("step", 1, 1), ("images", 16, 1), ("loss/D", 1 / 3, 1), ("lipschitz/D/layers/0_a_", 1.0, 1)),
            *(("step", 2, 2), ("images", 32, 2), ("loss/D", 2 / 3, 2), ("lipschitz/D/layers/0_a_", 1.0, 2)),
            ("metrics/fd", 20.0, 2),
        ]
    )
    assert store.artifacts["config.yaml"] == CONFIG
    assert store.artifacts["samples/step_00000002.png"] == (8, 6, 3)
    histogram = store.artifacts["histograms/step_00000001.json"]["spectra/layer"]
    assert sum(histogram["counts"]) == 10
    assert (histogram["edges"][0], histogram["edges"][-1]) == (0, 9)
    out = capsys.readouterr().out
    assert out == f"MLflow:       mlflow ui --backend-store-uri sqlite:///{tmp_path}/first/mlflow/mlflow.db\n"


def test_resumed_run_continues_the_same_run(tmp_path, mlflow):
    log(tmp_path / "run", 0, range(1, 5), is_complete=False)
    ((_, store),) = mlflow.items()
    assert [run.status for run in store.runs.values()] == ["KILLED"]
    log(tmp_path / "run", 2, range(3, 6))
    (run,) = store.runs.values()
    assert run.status == "FINISHED"
    assert [step for tag, _, step in run.metrics if tag == "loss/D"] == [1, 2, 3, 4, 5]


def test_moved_folder_is_reported_and_its_old_place_stays_empty(tmp_path, mlflow):
    """The database has the absolute path of the artifacts."""
    old, new = tmp_path / "old run", tmp_path / "new run"
    log(old, 0, range(1, 5))
    store = mlflow[f"sqlite:///{old}/mlflow/mlflow.db"]
    mlflow[f"sqlite:///{new}/mlflow/mlflow.db"] = store
    old.rename(new)
    before = dict(store.artifacts)
    with pytest.warns(UserWarning, match=r"^cannot log to mlflow \(the run folder was moved.*remove mlflow/ and"):
        log(new, 4, range(5, 7))
    assert store.artifacts == before
    (tmp_path / "link").symlink_to(new)
    mlflow[f"sqlite:///{tmp_path}/link/mlflow/mlflow.db"].create_experiment(
        "convnorm-gan", f"{new.as_uri()}/mlflow/artifacts"
    )
    (new / "mlflow.json").unlink()
    log(tmp_path / "link", 4, range(5, 7))


def test_environment_names_the_store_and_the_experiment(tmp_path, mlflow, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:password@host")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    log(tmp_path / "a", 0, [1])
    log(tmp_path / "b", 0, [1])
    ((uri, store),) = mlflow.items()
    assert uri == "https://user:password@host"
    assert store.experiments == {"mine": None}
    assert [run.name for run in store.runs.values()] == ["a", "b"]
    assert not (tmp_path / "a" / "mlflow").exists()
    assert capsys.readouterr().out == "MLflow:       run run0\nMLflow:       run run1\n"
    assert all("password" not in path.read_text() for path in tmp_path.rglob("*.*") if path.is_file())


def test_experiment_that_another_run_creates_is_used(tmp_path, mlflow, monkeypatch):
    def create(self, name, artifacts):
        self.experiments[name] = artifacts
        raise sys.modules["mlflow"].MlflowException("it exists")

    monkeypatch.setattr(Client, "create_experiment", create)
    log(tmp_path / "run", 0, [1])
    assert len(next(iter(mlflow.values())).runs) == 1


def test_nested_config_is_flattened():
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1, {"e": 2}]}) == {"a.b": 1, "d": [1, {"e": 2}]}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of MLflow and SQLAlchemy
def test_database_of_mlflow(tmp_path, python):
    pytest.importorskip("mlflow")
    home, run = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home)}
    for arguments in ("0, range(1, 5), False", "2, range(3, 7)"):
        program = f"import runpy, pathlib; runpy.run_path({__file__!r})['log'](pathlib.Path({str(run)!r}), {arguments})"
        done = python.run("-c", program, env=environment, cwd=home)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("convnorm-gan")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert found.data.params["train.steps"] == "4"

    def get_history(tag):
        return [(metric.step, metric.value) for metric in client.get_metric_history(found.info.run_id, tag)]

    assert get_history("loss/D") == [(step, step / 3) for step in range(1, 7)]
    assert get_history("images") == [(step, 16.0 * step) for step in range(1, 7)]
    assert get_history("metrics/fd") == [(2, 20.0), (4, 40.0), (6, 60.0)]
    artifacts = run / "mlflow" / "artifacts" / found.info.run_id / "artifacts"
    assert {path.name for path in artifacts.iterdir()} == {"config.yaml", "samples", "histograms"}
    assert len(list((artifacts / "samples").iterdir())) == 3
    assert not list(home.iterdir())
