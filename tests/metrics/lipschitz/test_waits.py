"""How often the host waits for a GPU during the measurements, and that the code for a GPU computes the same numbers."""

import math
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from gan.config import Config
from gan.data import ImageData, Splits
from gan.data.base import Preparation
from gan.options.loader import load_config
from gan.training.build import build_experiment
from gan.training.lipschitz import lipschitz_audit, lipschitz_numbers
from metrics.lipschitz import LipschitzTracker, certified_bound, operator_norm, singular_values, steepest_slope
from tests.fake_gpu import WAITING, FakeGPU

CONFIG = Path(__file__).parents[3] / "configs" / "digits" / "dcgan.yaml"
SMALL = (
    *("generator.width=4", "generator.z_dim=3", "discriminator.width=4", "train.batch_size=4"),
    *("eval.metrics=[]", "eval.standing_statistics=0", "lipschitz.iterations=2"),
)
LAYERS = 3  # of the discriminator: two convolutions and the head
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor:UserWarning")


def build_on(gpu: FakeGPU, normalization: str):
    config = load_config(Config, CONFIG, [*SMALL, f"discriminator.normalization={normalization}"])
    with gpu:
        images = torch.zeros(8, 1, 16, 16, dtype=torch.uint8)
        known = Preparation(Path("unused"), None, "unused")
        data = ImageData(images, torch.zeros(8, dtype=torch.int64), 10, preparation=known)
        experiment = build_experiment(config, Splits(data, data), gpu.device)
        experiment.inputs.real_images(0, 4)  # draws the order of the epoch
        gpu.forget()
    return experiment


@pytest.mark.fake_gpu
def test_measurement_waits_three_times():
    gpu = FakeGPU()
    experiment = build_on(gpu, "spectral")
    with gpu:
        numbers = lipschitz_numbers(experiment)
    assert sum("/layers/" in tag for tag in numbers) == LAYERS
    # All small eigenproblems to the host, their eigenvectors back, and all input gradients.
    waits = [(event.kind, event.line.split()[-1]) for event in gpu.find(*WAITING).elements()]
    assert waits == [("d2h", "to_host"), ("h2d", "largest_singular_values"), ("d2h", "measure_lipschitz")]


@pytest.mark.fake_gpu
@pytest.mark.parametrize(
    ("normalization", "largest"), [("spectral", 2**21), ("conv_norm", 1)], ids=["dense", "by frequency"]
)
def test_audit_waits_three_times_besides_the_bound(monkeypatch, normalization, largest):
    monkeypatch.setattr("gan.evaluation.lipschitz.singular_values", partial(singular_values, largest=largest))
    monkeypatch.setattr("gan.evaluation.lipschitz.steepest_slope", partial(steepest_slope, steps=1))
    monkeypatch.setattr("gan.evaluation.lipschitz.certified_bound", lambda *_: 1.0)  # it needs the values of weights
    gpu = FakeGPU()
    experiment = build_on(gpu, normalization)
    with gpu:
        _, spectra = lipschitz_audit(experiment)
    assert len(spectra) == LAYERS
    # The eigenvalue solver of a GPU waits once for each spectrum, which is not seen here.
    slope, spectra_of_all_layers, jacobians = 1, 1, 1
    assert gpu.find(*WAITING).total() == slope + spectra_of_all_layers + jacobians


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Run the code for a GPU on the CPU."""
    monkeypatch.setattr(sys.modules["metrics.lipschitz.operator_norm"], "reading_waits", lambda x: True)
    monkeypatch.setattr("metrics.lipschitz.spectrum.gram_is_faster", lambda matrix: True)


def network(rank: int = 6) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 6)).double()
    with torch.no_grad():
        layers[3].weight[rank:] = 0
    return layers


@pytest.mark.parametrize("rank", [0, 1, 6])  # the Krylov space of rank 0 or 1 is exhausted after 1 or 2 iterations
def test_numbers_for_a_gpu_are_those_for_a_cpu(request, rank):
    def measure():
        layers = network(rank)
        tracker = LipschitzTracker(layers, torch.zeros(1, 2, 4, 4, dtype=torch.float64))
        spectra = [singular_values(layers[i], shape) for i, shape in ((0, (2, 4, 4)), (3, (48,)))]
        return tracker.measure(), tracker.measure(), certified_bound(layers, (2, 4, 4)), *spectra, tracker.state_dict()

    cold, warm, certified, convolution, linear, vectors = measure()
    request.getfixturevalue("as_on_a_gpu")
    cold_gpu, warm_gpu, certified_gpu, convolution_gpu, linear_gpu, vectors_gpu = measure()
    assert cold_gpu == pytest.approx(cold, rel=1e-9)
    assert warm_gpu == pytest.approx(warm, rel=1e-9)
    assert certified_gpu == pytest.approx(certified, rel=4e-6)
    torch.testing.assert_close(convolution_gpu, convolution, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(linear_gpu, linear, rtol=1e-7, atol=1e-7)
    for path, vector in vectors_gpu.items():
        assert abs((vector * vectors[path]).sum().item()) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("gpu", [False, True])
def test_diverged_layer_with_others(request, value, gpu):
    if gpu:
        request.getfixturevalue("as_on_a_gpu")
    layers = network()
    with torch.no_grad():
        layers[0].weight[0, 0, 0, 0] = value
    tracker = LipschitzTracker(layers, torch.zeros(1, 2, 4, 4, dtype=torch.float64))
    before = tracker.state_dict()["0"]
    norms = tracker.measure()
    assert math.isnan(norms["0"])
    assert norms["3"] == pytest.approx(operator_norm(layers[3], (48,)), rel=1e-3)
    torch.testing.assert_close(tracker.state_dict()["0"], before)
    assert certified_bound(layers[0], (2, 4, 4)) == certified_bound(layers, (2, 4, 4)) == math.inf
    assert singular_values(layers[0], (2, 4, 4)).isnan().all()
    assert singular_values(layers[3], (48,)).isfinite().all()
