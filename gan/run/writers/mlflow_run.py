"""MLflow (https://mlflow.org)."""

# pyright: reportMissingImports=false
# (mlflow is an optional dependency.)

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

import numpy as np

from gan.run.folder import CONFIG
from gan.run.step_files import get_step_file
from gan.run.writers.base import WRITERS, flatten
from gan.run.writers.service import PROJECT, Histogram, Service
from gan.runtime.text import printable

ID_TAG = "convnorm_gan.id"
FORBIDDEN = re.compile(r"[^\w\-./ :]")  # in the name of a metric
MAX_PARAMETERS = 100  # in one call
MAX_LENGTH = 500  # of a parameter


@WRITERS.register("mlflow")
class MLflow(Service):
    """A run of MLflow with the name of the run folder, by default in a database in `mlflow/` of the run folder.

    The environment variables of MLflow choose another place: `MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME`, and those
    of its passwords. The parameters are the config with which the run began, since MLflow does not change parameters;
    the artifact `config.yaml` is the current config. Images and histograms (JSON) are artifacts.
    """

    package: ClassVar[str | None] = "mlflow"

    def open(self) -> None:
        """Begin or continue the run. RuntimeError if the run folder was moved, which MLflow cannot follow."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # which it would send to its authors
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        from mlflow import MlflowClient

        uri, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
        if not uri:
            store = self.folder.absolute() / "mlflow"
            store.mkdir(exist_ok=True)
            uri, artifacts = f"sqlite:///{store / 'mlflow.db'}", (store / "artifacts").as_uri()
        self._client = MlflowClient(uri)
        experiment = self._get_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT), artifacts)
        runs = self._client.search_runs([experiment], f"tags.`{ID_TAG}` = '{self.id}'", max_results=1)
        if runs:
            self._run = runs[0].info.run_id
            self._client.update_run(self._run, "RUNNING")
        else:
            run = self._client.create_run(experiment, tags={ID_TAG: self.id}, run_name=self.folder.name)
            self._run = run.info.run_id
            self._send_parameters()
        self._client.log_artifact(self._run, str(self.folder / CONFIG))

    def send_numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log metrics."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(FORBIDDEN.sub("_", tag), float(value), now, step) for tag, value in numbers.items()]
        self._client.log_batch(self._run, metrics)

    def send_image(self, tag: str, step: int, image: np.ndarray) -> None:
        """Write an image (H, W, C) uint8 to `TAG/step_00000500.png`."""
        self._client.log_image(self._run, image, str(get_step_file(Path(tag), step, ".png")))

    def send_histograms(self, step: int, histograms: Mapping[str, Histogram]) -> None:
        """Write the counts and the edges of the bins to `histograms/step_00000500.json`."""
        values = {
            tag: {"counts": counts.tolist(), "edges": edges.tolist()} for tag, (counts, edges) in histograms.items()
        }
        self._client.log_dict(self._run, values, str(get_step_file(Path("histograms"), step, ".json")))

    def finish(self, is_complete: bool) -> str:
        """End the run. Its status is `KILLED` if it was stopped."""
        self._client.set_terminated(self._run, "FINISHED" if is_complete else "KILLED")
        if os.environ.get("MLFLOW_TRACKING_URI"):  # which may contain a password
            return f"MLflow:       run {self._run}"
        return f"MLflow:       mlflow ui --backend-store-uri sqlite:///{printable(self.folder)}/mlflow/mlflow.db"

    def _get_experiment(self, name: str, artifacts: str | None) -> str:
        """Return the ID of an experiment, which is created if there is none."""
        from mlflow import MlflowException

        if found := self._client.get_experiment_by_name(name):
            if artifacts is not None and _was_moved(found.artifact_location, artifacts):
                raise RuntimeError(
                    "the run folder was moved, and MLflow would write to its old place; remove mlflow/ and mlflow.json"
                    " in it to begin another run"
                )
            return found.experiment_id
        try:
            return self._client.create_experiment(name, artifacts)
        except MlflowException:
            if found := self._client.get_experiment_by_name(name):  # another run has created it in the meantime
                return found.experiment_id
            raise

    def _send_parameters(self) -> None:
        from mlflow.entities import Param

        parameters = [Param(key, str(value)[:MAX_LENGTH]) for key, value in flatten(self.read_config()).items()]
        for i in range(0, len(parameters), MAX_PARAMETERS):
            self._client.log_batch(self._run, params=parameters[i : i + MAX_PARAMETERS])


def _was_moved(location: str, artifacts: str) -> bool:
    """Return whether the artifacts of an experiment are in another run folder than `artifacts` (both are URIs)."""
    old, new = (Path(unquote(urlsplit(uri).path)) for uri in (location, artifacts))
    return old.parts[-2:] == new.parts[-2:] and old.resolve() != new.resolve()
