"""Training steps whose updates are captured once and repeated."""

import contextlib
import io
import re
from functools import partial

import pytest
import torch

from gan.runtime.cuda_graphs import WARMUP_CALLS, CaptureError, CUDAGraphs
from gan.runtime.errors import UserError
from gan.runtime.rng import set_deterministic
from gan.training.build import find_obstacle_to_graphs
from gan.training.lipschitz import lipschitz_numbers, run_measurement
from gan.training.step import training_step
from tests.gan.experiments import build_on_random_images
from tests.gan.runs import same

RECIPES = {
    "conv_norm running average": ["discriminator.normalization={name: conv_norm, running_average: true}"],
    "spectral": ["discriminator.normalization=spectral", "generator.normalization=spectral"],
    "batch norm": ["discriminator.normalization=none", "discriminator.activation_norm=batch"],
    "lazy penalties": ["regularizers={r1: {weight: 1, every: 3}, gradient_penalty: {every: 2}}"],
    "learning rates, labels, streamed images": [
        *("optimizer.schedule=linear", "data.conditional=true", "data.device_budget_gb=0"),
    ],
    "schedules": [
        "optimizer.generator.lr={start: 1e-3, end: 0}",
        "regularizers.r1={weight: {start: 1, end: 0.1}, every: 1}",
        "train.ema_halflife_kimg={start: 0, end: 1}",
        "train.augment=[ada]",
        "train.ada={p: {start: 0, end: 0.5}, target: null, color: 0.5, cutout: 1}",
        "train.accumulate=2",
    ],
    "all random options": [
        "loss=relativistic",
        "train.first=generator",
        "train.generator_batch_size=4",
        "train.augment=[ada, color, translation, cutout]",
        "train.ada={p: 0.3, kimg: 0.5, every: 2}",
        "data={horizontal_flip: true, dequantize: true}",
        "regularizers={dragan: {}, srip: {}, lecam: {start: 3}, bcr: {every: 2}, zcr: {}}",
    ],
}


class Repeated:
    """Does on a CPU what CUDA graphs do: calls what it was first given under a key, without a look at the host."""

    def __init__(self, experiment):
        self.experiment, self.functions = experiment, {}

    def run(self, key, function):
        function = self.functions.setdefault(key, function)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.experiment, "step", None)
            patch.setattr(torch, "Generator", None)
            return function()

    def clear(self):
        self.functions.clear()


def read_state(experiment):
    state = experiment.state_dict()
    return {name: state[name] for name in state if name not in ("step", "lipschitz")}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_repeated_updates_equal_new_ones(build, recipe):
    states = []
    for repeats in (False, True):
        experiment = build(*recipe)
        if repeats:
            experiment.graphs = Repeated(experiment)
        losses = [training_step(experiment, experiment.G, experiment.D) for _ in range(6)]
        states.append((read_state(experiment), losses))
        experiment.inputs.sampler.close()
    assert same(*states)


def test_steps_with_the_same_penalties_share_a_graph(build):
    experiment = build("regularizers={r1: {weight: 1, every: 3}}", "train.n_critic=1")
    experiment.graphs = graphs = Repeated(experiment)
    for _ in range(6):
        training_step(experiment, experiment.G, experiment.D)
    assert len(graphs.functions) == 2
    experiment.load_state_dict(experiment.state_dict())
    assert not graphs.functions  # the optimizers have new tensors


@pytest.fixture
def cuda_without_gpu(monkeypatch):
    """Replace the parts of torch.cuda that a graph needs; a captured function runs once, a replay appends to a list."""
    replays = []

    class Graph:
        def register_generator_state(self, generator):
            replays.append(("generator", generator))

        def replay(self):
            replays.append(("replay", self))

    class Stream:
        def wait_stream(self, other):
            pass

    def capture(graph, pool, stream, capture_error_mode):
        graph.pool = pool
        return contextlib.nullcontext()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    return replays


def test_calls_are_eager_then_captured_then_replayed(cuda_without_gpu):
    parameter, generator = torch.nn.Parameter(torch.zeros(())), torch.Generator()
    graphs, calls = CUDAGraphs([generator], [parameter]), []

    def function(key):
        calls.append(key)
        parameter.grad = torch.full((), float(len(calls)))
        return {"key": parameter.grad}

    for _ in range(WARMUP_CALLS + 3):
        for key in "ab":
            result = graphs.run(key, lambda key=key: function(key))
            assert result["key"] is parameter.grad  # that of this key, also after a replay
    assert calls == ["a", "b"] * (WARMUP_CALLS + 1)
    assert [kind for kind, _ in cuda_without_gpu] == [*["generator", "replay"] * 2, *["replay"] * 4]
    graphs.clear()
    for _ in range(WARMUP_CALLS + 1):
        graphs.run("a", lambda: function("a"))
    assert len(calls) == 3 * (WARMUP_CALLS + 1)
    pools = [graph.pool for kind, graph in cuda_without_gpu if kind == "replay"]
    assert len(set(pools[:-1])) == 1
    assert pools[-1] is not pools[0]  # PyTorch captures into no pool whose graphs are all gone


def test_failed_capture_is_reported(cuda_without_gpu):
    graphs = CUDAGraphs([], [])
    for _ in range(WARMUP_CALLS):
        graphs.run("a", dict)

    def wait():
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    with pytest.raises(CaptureError, match="operation not permitted when stream is capturing"):
        graphs.run("a", wait)


class FailingGraphs:
    """CUDA graphs of a function that cannot be captured."""

    def run(self, key, function):
        raise CaptureError("operation not permitted")


def test_step_that_cannot_be_captured_is_a_user_error(build):
    experiment = build("train.steps=1")
    experiment.graphs = FailingGraphs()
    message = r"cannot be captured as a CUDA graph; use train\.graph=false \(operation not permitted\)"
    with pytest.raises(UserError, match=message):
        training_step(experiment, experiment.G, experiment.D)


def test_measurement_that_cannot_be_captured_is_eager(build):
    experiment, other = build("train.steps=1"), build("train.steps=1")
    experiment.tracker_graphs = FailingGraphs()
    with pytest.warns(UserWarning, match="the layer norms are measured without a CUDA graph.*operation not permitted"):
        numbers = lipschitz_numbers(experiment)
    assert experiment.tracker_graphs is None
    assert numbers == lipschitz_numbers(other)


@pytest.mark.gpu
@pytest.mark.parametrize("normalization", ["none", "spectral", "spectral_conv", "conv_norm"])
def test_replayed_measurements_equal_eager_ones(normalization):
    set_deterministic(True)
    norms = []
    for graph in ("true" if normalization != "spectral_conv" else "auto", "false"):
        experiment = build_on_random_images(
            "cifar10/sngan_resnet", f"discriminator.normalization={normalization}", f"train.graph={graph}"
        )
        assert (experiment.tracker_graphs is None) == (graph == "false")
        for _ in range(WARMUP_CALLS + 3):
            training_step(experiment, experiment.G, experiment.D)
            norms.append(experiment.tracker.measure(partial(run_measurement, experiment)))
        assert (experiment.tracker_graphs is None) == (graph == "false")  # it was captured
    half = WARMUP_CALLS + 3
    assert norms[:half] == norms[half:]


@pytest.mark.parametrize(
    ("override", "obstacle"),
    [
        ("discriminator.normalization=spectral_conv", "the layer .*parametrizations.weight.0 runs other kernels"),
        ("optimizer.generator.betas=[0, {start: 0.9, end: 0.99}]", "the optimizer's betas follow a schedule"),
        ("optimizer.generator.lr={start: 1, end: 0}", None),
    ],
)
def test_obstacles_to_graphs(build, override, obstacle):
    experiment = build(override)
    found = find_obstacle_to_graphs(experiment.config, torch.device("cuda"), experiment.G, experiment.D)
    if obstacle is None:
        assert found is None
    else:
        assert re.search(obstacle, found)


def test_graph_on_a_cpu_is_a_user_error(build):
    with pytest.raises(UserError, match=r"train\.graph=true: a CUDA graph needs a CUDA device, not cpu"):
        build("train.graph=true")


SCHEDULES = [
    "optimizer.schedule=constant",
    *(f"optimizer.{network}.lr={{start: 2e-4, end: 1e-5, kimg: 1}}" for network in ("generator", "discriminator")),
    "regularizers={r1: {weight: {start: 0.05, end: 0.005, kimg: 1}, every: 2}}",
    "train.ema_halflife_kimg={start: 0, end: 1, kimg: 1}",
    *("train.augment=[ada]", "train.ada={p: {start: 0, end: 0.5, kimg: 1}, target: null}"),
]
GPU_RECIPES = {  # config, shape of the images, overrides
    "digits, lazy penalty": ("digits/dcgan", (16, 1), []),
    "digits, conv_norm": ("digits/dcgan_conv_norm", (16, 1), []),
    "resnet, bilinear, spectral": ("cifar10/sngan_resnet_mimicry", (32, 3), []),
    "resnet, conv_norm": ("cifar10/sngan_resnet_conv_norm", (32, 3), []),
    "resnet, conv_norm, bf16": ("cifar10/sngan_resnet_conv_norm", (32, 3), ["train.precision=bf16"]),
    "resnet, streamed images": ("cifar10/sngan_resnet", (32, 3), ["data.device_budget_gb=0"]),
    "resnet, fp16": ("cifar10/sngan_resnet", (32, 3), ["train.precision=fp16"]),
    "resnet, batch norm, labels": ("cifar10/wgan_gp_resnet", (32, 3), ["data.conditional=true"]),
    "dcgan, schedules": ("cifar10/dcgan", (32, 3), SCHEDULES),
    "dcgan, ADA": ("cifar10/dcgan", (32, 3), ["train.augment=[ada]", "train.ada={p: 0.3, kimg: 5}"]),
    "dcgan, parts of batches": ("cifar10/dcgan", (32, 3), ["train.accumulate=4"]),
    "dcgan, soc": ("cifar10/dcgan", (32, 3), ["discriminator.normalization=soc"]),
    "dcgan, cayley": ("cifar10/dcgan", (32, 3), ["discriminator.normalization=cayley"]),
}


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "shape", "extra"), GPU_RECIPES.values(), ids=GPU_RECIPES)
def test_captured_eager_and_resumed_steps_are_bit_equal(name, shape, extra, request):
    set_deterministic(True)
    request.addfinalizer(lambda: set_deterministic(False))
    side, channels = shape

    def build(graph):
        return build_on_random_images(name, f"train.graph={graph}", *extra, side=side, channels=channels)

    def take_steps(experiment, count):
        return [
            {tag: loss.item() for tag, loss in training_step(experiment, experiment.G, experiment.D).items()}
            for _ in range(count)
        ]

    # Each combination of penalties that are due has a graph of its own.
    cycle = max((regularizer.every for regularizer in build("false").config.regularizers.values()), default=1)
    half, steps = cycle * (WARMUP_CALLS + 2), cycle * (WARMUP_CALLS + 4)
    eager, captured, resumed = build("false"), build("true"), build("true")
    losses = take_steps(eager, steps)
    assert take_steps(captured, half) == losses[:half]
    saved = io.BytesIO()
    torch.save(captured.state_dict(), saved)
    assert take_steps(captured, steps - half) == losses[half:]
    assert same(read_state(captured), read_state(eager))

    saved.seek(0)
    resumed.load_state_dict(torch.load(saved, map_location="cpu", weights_only=False))
    assert take_steps(resumed, steps - half) == losses[half:]  # most of them are warm-up calls
    assert same(read_state(resumed), read_state(eager))
    captured.load_state_dict(resumed.state_dict())  # also into an experiment that has graphs
    assert take_steps(captured, WARMUP_CALLS + 2) == take_steps(eager, WARMUP_CALLS + 2)
