"""How often the host waits for a GPU during the measurements, and that the code for a GPU computes the same numbers."""

import math
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gan.config import Config
from gan.data import ImageData, Splits
from gan.data.base import Preparation
from gan.options.loader import load_config
from gan.training.build import build_experiment
from gan.training.lipschitz import lipschitz_audit, lipschitz_numbers
from metrics.lipschitz import LipschitzTracker, certified_bound, operator_norm, singular_values, steepest_slope
from models.kernels.symbol import largest_norm
from tests.fake_gpu import WAITING, FakeGPU

CONFIG = Path(__file__).parents[3] / "configs" / "digits" / "dcgan.yaml"
SMALL = (
    *("generator.width=4", "generator.z_dim=3", "discriminator.width=4", "train.batch_size=4"),
    *("eval.metrics=[]", "lipschitz.iterations=2"),
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
    ("normalization", "gains", "largest"), [("spectral", 0, 2**21), ("conv_norm", 2, 1)], ids=["dense", "by frequency"]
)
def test_audit_waits_for_each_bound_and_three_times_more(monkeypatch, normalization, gains, largest):
    monkeypatch.setattr("gan.evaluation.lipschitz.singular_values", partial(singular_values, largest=largest))
    monkeypatch.setattr("gan.evaluation.lipschitz.steepest_slope", partial(steepest_slope, steps=1))
    gpu = FakeGPU()
    experiment = build_on(gpu, normalization)
    with gpu:
        numbers, spectra = lipschitz_audit(experiment)
    assert "lipschitz/D/certified" in numbers
    assert len(spectra) == LAYERS
    waits = gpu.find(*WAITING)
    # One for each layer, since the fake numbers converge at the first test; ConvNorm also reads the gain of its affine
    # part. The eigenvalue solver of a GPU waits once for each spectrum, which is not seen here.
    assert sum(count for event, count in waits.items() if "bound" in event.line or "norm" in event.line) == 3 + gains
    slope, spectra_of_all_layers, jacobians = 1, 1, 1
    assert waits.total() == 3 + gains + slope + spectra_of_all_layers + jacobians


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Run the code for a GPU on the CPU."""
    monkeypatch.setattr("models.kernels.symbol.reading_waits", lambda x: True)
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
    assert certified_bound(layers[0]) == certified_bound(layers, (2, 4, 4)) == math.inf
    assert singular_values(layers[0], (2, 4, 4)).isnan().all()
    assert singular_values(layers[3], (48,)).isfinite().all()


@pytest.mark.parametrize("gpu", [False, True])
def test_largest_norm_reads_seldom_and_is_never_too_small(request, monkeypatch, gpu):
    if gpu:
        request.getfixturevalue("as_on_a_gpu")
    random = torch.Generator().manual_seed(0)
    some = torch.randn(40, 16, 9, generator=random, dtype=torch.complex128)
    orthogonal = torch.linalg.qr(some)[0]  # 9 equal singular values: the slowest case
    copies, cpu, reads = [], Tensor.cpu, []
    monkeypatch.setattr(Tensor, "cpu", lambda x: (copies.append(x), cpu(x))[1])
    for matrices in (some, orthogonal, torch.cat([some, torch.zeros_like(some)])):
        bound = largest_norm(matrices)
        truth = torch.linalg.matrix_norm(matrices, 2).max().item()
        assert truth * (1 - 1e-12) <= bound <= truth * (1 + 2e-6)
        reads.append(len(copies))
        copies.clear()
    assert not gpu or reads == [2, 6, 2]
    assert largest_norm(torch.zeros(3, 2, 2)) == 0
    huge = torch.full((2, 2, 2), 1e200, dtype=torch.float64)  # its Gram matrix overflows
    one = torch.eye(2, dtype=torch.float64)
    for diverged in (huge, torch.stack([huge[0], one]), torch.stack([one, huge[0] * math.inf])):
        assert largest_norm(diverged) == largest_norm(diverged, at_least=5.0) == math.inf
