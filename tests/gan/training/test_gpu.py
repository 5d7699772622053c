"""Training steps on a GPU: the host never waits, and compiled steps, fp16 and NCCL work."""

import copy
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gan.objectives.regularizers import REGULARIZERS
from gan.runtime.cuda_graphs import WARMUP_CALLS
from gan.training.loop import compile_networks
from gan.training.step import training_step
from models import ImageShape, build_classifier, build_discriminator, build_generator
from models.kernels import plain_kernels, upsample
from models.networks.classifiers import ResNet18Config
from models.normalizations import NORMALIZATIONS
from tests.gan.experiments import build_on_random_images

pytestmark = pytest.mark.gpu  # that is, pytest.mark.gpu on each test

ROOT = Path(__file__).parents[3]
D_NORM = "discriminator.normalization="
SMALL = ("generator.width=16", "discriminator.width=16", "train.n_critic=1", "train.batch_size=8")
EAGER = "train.graph=false"
CHOICES = [
    *(D_NORM + name for name in sorted(NORMALIZATIONS)),
    D_NORM + "{name: spectral_conv, rescan_every: 1}",
    "generator.normalization=spectral",
    *(f"regularizers={{{name}: {{}}}}" for name in sorted(REGULARIZERS)),
    *("train.precision=bf16", "train.precision=fp16", "train.precision=tf32"),
    *("data.conditional=true", "data={horizontal_flip: true, dequantize: true}"),
    *("train.augment=[ada, color, translation, cutout]", "train.generator_batch_size=16"),
]


def to_numbers(losses):
    return {tag: loss.item() for tag, loss in losses.items()}


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch):
    """Compute in fp32 and not in TensorFloat-32, as the commands do."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("network", ["cifar10/sngan_resnet", "cifar10/dcgan"])
@pytest.mark.parametrize("choice", CHOICES)
def test_host_does_not_wait(network, choice):
    experiment = build_on_random_images(network, *SMALL, EAGER, choice)
    training_step(experiment, experiment.G, experiment.D)  # brings the order of the first epoch to the GPU
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = training_step(experiment, experiment.G, experiment.D)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(map(math.isfinite, to_numbers(losses).values()))


@pytest.mark.parametrize(("precision", "tolerance"), [("tf32", 0.01), ("bf16", 0.05), ("fp16", 0.05)])
def test_losses_in_other_formats_are_close(precision, tolerance):
    losses = []
    for name in ("fp32", precision):
        experiment = build_on_random_images("cifar10/sngan_resnet", *SMALL, f"train.precision={name}")
        losses.append([to_numbers(training_step(experiment, experiment.G, experiment.D)) for _ in range(8)])
        assert all(parameter.isfinite().all() for parameter in (*experiment.G.parameters(), *experiment.D.parameters()))
    # Before the first update: later the rounding errors grow, and fp16 skips updates until it has found its scale.
    for tag in ("loss/D", "logits/real", "logits/fake"):
        assert losses[1][0][tag] == pytest.approx(losses[0][0][tag], rel=tolerance, abs=tolerance), tag


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_upsampling_keeps_the_dtype_under_autocast(mode):
    x = torch.randn(2, 4, 4, 4, device="cuda", dtype=torch.bfloat16)
    with torch.autocast("cuda", torch.bfloat16):
        assert upsample(x, mode).dtype == torch.bfloat16


PROCESS = """
import runpy
import torch
import torch.distributed as dist
from gan.runtime.distributed import process_group
from gan.training.step import training_step

build_on_random_images = runpy.run_path("tests/gan/experiments.py")["build_on_random_images"]

device = torch.device("cuda")
with process_group(device):
    assert "nccl" in str(dist.get_backend_config())
    x = torch.full((3,), 2.0, device=device)
    dist.all_reduce(x)
    parts = [torch.empty_like(x)]
    dist.all_gather(parts, x)
    assert parts[0].tolist() == [2.0] * 3
    box = [{"steps": 2}]
    dist.broadcast_object_list(box)  # by gloo
    experiment = build_on_random_images("cifar10/dcgan", "generator.width=8", "discriminator.width=8")
    for _ in range(box[0]["steps"]):
        losses = training_step(experiment, experiment.G, experiment.D)
    assert all(loss.isfinite() for loss in losses.values())
    print("done")
"""


def test_nccl_with_one_process(tmp_path):
    script = tmp_path / "process.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{PROCESS}")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", script]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "done" in done.stdout


@pytest.mark.filterwarnings("ignore")  # of the compiler
@pytest.mark.parametrize("normalization", ["spectral", "conv_norm"])
def test_compiled_and_captured_steps_equal_eager_ones(normalization):
    torch.compiler.reset()
    losses = []
    for keys in ((EAGER,), ("train.compile=true", "train.graph=true")):
        options = (*SMALL, D_NORM + normalization, *keys)
        experiment = build_on_random_images("cifar10/dcgan", *options, side=16)
        networks = compile_networks(experiment)
        steps = range(WARMUP_CALLS + 2)
        losses.append([to_numbers(training_step(experiment, *networks)) for _ in steps])
    for eager, compiled in zip(*losses, strict=True):
        assert compiled == pytest.approx(eager, rel=1e-3, abs=1e-3)


NETWORKS = {
    "resnet18": lambda: build_classifier("resnet18", CLASSES),
    "resnet18 of width 18": lambda: build_classifier(ResNet18Config(width=18), CLASSES),
    "dcgan D": lambda: build_discriminator("dcgan", IMAGE),
    "dcgan G": lambda: build_generator("dcgan", IMAGE),
    "resnet D": lambda: build_discriminator("resnet", IMAGE),
    "resnet G": lambda: build_generator("resnet", IMAGE),
}
IMAGE, CLASSES = ImageShape(3, 32), ImageShape(3, 32, 10)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", NETWORKS)
def test_algorithms_that_cudnn_measures_agree_with_the_cpu(monkeypatch, name, memory_format, training):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)  # as in a run
    torch.manual_seed(0)
    exact = NETWORKS[name]().train(training)
    network = copy.deepcopy(exact).cuda().to(memory_format=memory_format)
    exact.double()
    size = (250, 128) if name.endswith("G") else (250, 3, 32, 32)
    x = torch.randn(size, dtype=torch.float64)
    on_gpu = x.float().cuda()
    on_gpu = on_gpu.contiguous(memory_format=memory_format) if x.dim() == 4 else on_gpu
    with plain_kernels():
        expected = exact(x)
    actual = network(on_gpu)
    assert relative_error(actual, expected) < 1e-4
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (actual * weights.float().cuda()).sum().backward()
    # All together, since the gradients of biases before batch norm are zero but for rounding. In single precision, a
    # few activations near zero are on the other side of their kink, also on a CPU: up to 0.3 % of the gradient.
    assert relative_error(join(p.grad for p in network.parameters()), join(p.grad for p in exact.parameters())) < 1e-2
    if training:
        assert relative_error(join(network.buffers()), join(exact.buffers())) < 1e-4


def join(tensors):
    return torch.cat([torch.empty(0, dtype=torch.float64), *(tensor.double().cpu().flatten() for tensor in tensors)])


def relative_error(value, truth):
    return ((value.double().cpu() - truth).norm() / truth.norm().clamp(min=1e-12)).item()
