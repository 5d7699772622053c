"""Training steps whose updates are captured once and repeated."""

import contextlib
import re
from pathlib import Path

import pytest
import torch

from gan.config import Config
from gan.data import ImageData, Splits
from gan.options.loader import load_config
from gan.runtime.cuda_graphs import WARMUP_CALLS, CUDAGraphs
from gan.runtime.errors import UserError
from gan.runtime.rng import set_deterministic
from gan.training.build import build_experiment, find_obstacle_to_graphs
from gan.training.step import training_step
from tests.gan.runs import same

RECIPES = {
    "conv_norm": [],
    "conv_norm running average": ["discriminator.normalization.running_average=true"],
    "spectral": ["discriminator.normalization=spectral", "generator.normalization=spectral"],
    "batch norm": ["discriminator.normalization=none", "discriminator.activation_norm=batch"],
    "lazy penalties": ["regularizers={r1: {weight: 1, every: 3}, gradient_penalty: {every: 2}}"],
    "learning rates": ["optimizer.schedule=linear", "data.conditional=true"],
    "all random options": [
        "loss=relativistic",
        "train.first=generator",
        "train.generator_batch_size=4",
        "train.augment=[color, translation, cutout]",
        "data={horizontal_flip: true, dequantize: true}",
        "regularizers={dragan: {}, srip: {}}",
    ],
    "streamed images": ["data.device_budget_gb=0"],
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
    return {name: state[name] for name in ("G", "D", "G_ema", "optimizer_G", "optimizer_D")}


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

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **options: contextlib.nullcontext())
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
    graphs.run("a", lambda: function("a"))
    assert len(calls) == 2 * (WARMUP_CALLS + 1) + 1


def test_failed_capture_is_a_user_error(cuda_without_gpu):
    graphs = CUDAGraphs([], [])
    for _ in range(WARMUP_CALLS):
        graphs.run("a", dict)

    def wait():
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    reason = r"\(operation not permitted when stream is capturing\)"
    with pytest.raises(UserError, match=rf"cannot be captured as a CUDA graph; use train\.graph=false {reason}"):
        graphs.run("a", wait)


@pytest.mark.parametrize(
    ("override", "obstacle"),
    [
        ("train.compile=true", "compiled networks are not captured"),
        ("discriminator.normalization=spectral_conv", "the layer .*parametrizations.weight.0 runs other kernels"),
        ("log.every=1", None),
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


GPU_RECIPES = {
    "digits conv_norm": ("digits/dcgan_conv_norm", []),
    "resnet bilinear spectral": ("cifar10/sngan_resnet_mimicry", []),
    "resnet conv_norm bf16": ("cifar10/sngan_resnet_conv_norm", ["train.precision=bf16"]),
    "resnet fp16": ("cifar10/sngan_resnet", ["train.precision=fp16"]),
}


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "extra"), GPU_RECIPES.values(), ids=GPU_RECIPES)
def test_captured_steps_equal_eager_ones(name, extra, request):
    set_deterministic(True)
    request.addfinalizer(lambda: set_deterministic(False))
    states = []
    for graph in ("false", "true"):
        experiment = build_on_gpu(name, f"train.graph={graph}", *extra)
        for _ in range(WARMUP_CALLS + 4):
            losses = training_step(experiment, experiment.G, experiment.D)
        states.append((read_state(experiment), losses))
    assert same(*states)


def build_on_gpu(name, *overrides):
    """Return the experiment of a shipped config, with random images and without metrics."""
    path = Path(__file__).parents[3] / "configs" / f"{name}.yaml"
    small = ["generator.width=32", "discriminator.width=32", "eval.metrics=[]", *overrides]
    config = load_config(Config, path, small)
    if config.data.shows_digits:
        splits = config.data.load()
    else:
        images = torch.randint(256, (512, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        data = ImageData(images, torch.arange(512) % 10, 10)
        splits = Splits(data, data)
    experiment = build_experiment(config, splits, torch.device("cuda"))
    experiment.G.train()
    experiment.D.train()
    return experiment
