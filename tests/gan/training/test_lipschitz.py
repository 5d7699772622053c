"""Measurements in a training run, and networks that are called in other ways than the toolkit's."""

from types import MethodType

import pytest
import torch

from gan.evaluate import evaluate_seed
from gan.run.logging import read_metrics
from gan.sample.__main__ import generate
from gan.training.lipschitz import lipschitz_audit, lipschitz_numbers
from gan.training.restore import TrainedGenerator
from gan.training.step import training_step

pytestmark = pytest.mark.usefixtures("short_slope_search")


def replace_calls(experiment):
    """Let the networks of an experiment accept no labels, and let D return logits (B, 1)."""
    for G in (experiment.G, experiment.ema.network):
        G.forward = MethodType(lambda self, z: type(self).forward(self, z), G)  # a copy of G calls the copy's
    D = experiment.D
    D.forward = lambda x: type(D).forward(D, x)[:, None]


@pytest.mark.parametrize("loss", ["hinge", pytest.param("relativistic", marks=pytest.mark.slow)])
def test_networks_without_labels_and_with_a_column_of_logits(build, loss):
    def run(experiment):
        penalties = [training_step(experiment, experiment.G, experiment.D) for _ in range(3)]
        measured = lipschitz_numbers(experiment), lipschitz_audit(experiment)[0]
        latents = experiment.inputs.latents(4, "sample")
        trained = TrainedGenerator(experiment.ema.network, experiment.config, experiment.image_shape, 1)
        scores = evaluate_seed(experiment.ema.network, experiment.inputs, experiment.evaluator, 1)
        return penalties, measured, generate(trained, *latents), scores

    penalties = [f"regularizers.{name}.weight=1" for name in ("r1", "r2", "gradient_penalty", "dragan")]
    ours, users = (build(f"loss={loss}", *penalties) for _ in range(2))
    replace_calls(users)
    (losses, measured, images, scores), (losses2, measured2, images2, scores2) = run(ours), run(users)
    assert losses == losses2
    assert measured == measured2
    assert torch.equal(images, images2)
    assert scores == scores2


def test_failed_audit_does_not_end_a_run(tmp_path, tiny_run, monkeypatch, capsys):
    def fail(*arguments):
        raise RuntimeError("an operation that is not supported")

    monkeypatch.setattr("gan.evaluation.lipschitz.certified_bound", fail)
    monkeypatch.setattr("gan.training.lipschitz.jacobian_singular_values", fail)
    with pytest.warns(UserWarning, match="could not be measured: RuntimeError: an operation that is") as caught:
        folder = tiny_run(tmp_path / "run")
    parts = {str(warning.message).split(" could")[0] for warning in caught}
    assert parts == {"the certified bound", "the Jacobian of G"}
    assert list((folder / "checkpoints").glob("step_*4.pt"))
    last = read_metrics(folder)[-1]
    assert {"lipschitz/D/slope", "lipschitz/D/product", "lipschitz/D/stable_rank/downs.0"} <= last.keys()
    assert not {"lipschitz/D/certified", "lipschitz/G/jacobian_max"} & last.keys()
