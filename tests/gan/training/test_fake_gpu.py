"""Training steps on a GPU without hardware: no devices are mixed, the host never waits, and launches are counted."""

from pathlib import Path

import pytest
import torch

from gan.config import Config
from gan.data import ImageData, Splits
from gan.data.base import Preparation
from gan.objectives.regularizers import REGULARIZERS
from gan.options.loader import load_config
from gan.run.divergence import find_nonfinite, gradient_norm
from gan.training.build import build_experiment
from gan.training.lipschitz import lipschitz_audit, lipschitz_numbers
from gan.training.loop import fixed_samples
from gan.training.step import due_penalties, prepare_step, run_updates, training_step
from models.activation_norms import ACTIVATION_NORMS
from models.kernels import switch
from models.networks.base import GENERATORS
from models.normalizations import NORMALIZATIONS, spectral_conv
from tests.fake_gpu import NAME, WAITING, FakeGPU

pytestmark = [pytest.mark.fake_gpu, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "configs" / "cifar10" / "sngan_resnet.yaml"
BASE = """
data: {{name: cifar10, horizontal_flip: true, dequantize: true}}
generator: {{name: {network}, {width} z_dim: 8}}
discriminator: {{name: {network}, {width}}}
eval: {{metrics: []}}
train: {{steps: 100, batch_size: 4, ema_halflife_kimg: 1}}
"""
WIDTHS = {"r3gan": "width: 16, group_size: 16, blocks: 1,", "resnet": "width: 8,"}
D_NORM = "discriminator.normalization="


@pytest.fixture(autouse=True)
def short_scans(monkeypatch):
    """Shorten the scans of spectral_conv, which take as many operations in each iteration."""
    monkeypatch.setattr(spectral_conv, "SCAN_STEPS", 1)
    monkeypatch.setattr(spectral_conv, "SETTLE_STEPS", 1)


def build(config, gpu, side=16):
    """Return the experiment of a config on the fake GPU, with images of zeros."""
    with gpu:
        images = torch.zeros(64, 3, side, side, dtype=torch.uint8)
        preparation = Preparation(images, None, "unused")  # its fingerprint replaces that of the pixels
        data = ImageData(images, torch.zeros(64, dtype=torch.int64), 10, preparation=preparation)
        experiment = build_experiment(config, Splits(data, data), gpu.device)
        experiment.G.train()
        experiment.D.train()
    return experiment


@pytest.fixture
def check_step(tmp_path):
    """Return a function that runs a step of a network, with config keys changed by overrides, and checks it."""

    def check(network, *overrides):
        gpu = FakeGPU()
        path = tmp_path / "config.yaml"
        path.write_text(BASE.format(network=network, width=WIDTHS.get(network, "width: 4,")))
        experiment = build(load_config(Config, path, overrides), gpu)
        with gpu:
            prepare_step(experiment)  # brings the order of the first epoch to the device
            gpu.forget()
            losses = run_updates(experiment, experiment.G, experiment.D, due_penalties(experiment))
            assert not gpu.find(*WAITING, "generator")
        assert all(loss.device.type == NAME for loss in losses.values())
        for key, part in experiment.state_dict().items():
            for name, tensor in part.items() if key in ("G", "D", "G_ema") else ():
                assert tensor.device.type == NAME or name.endswith("_extra_state"), (key, name)
        return experiment, gpu

    return check


PAIRS = [("dcgan", name) for name in sorted(NORMALIZATIONS)]
PAIRS += [(network, name) for network in sorted(set(GENERATORS) - {"dcgan"}) for name in ("none", "conv_norm")]


@pytest.mark.parametrize(("network", "normalization"), PAIRS)
def test_networks_and_normalizations(check_step, network, normalization):
    check_step(network, D_NORM + normalization)


@pytest.mark.parametrize("normalization", ["spectral", "conv_norm"])
def test_normalizations_of_the_generator(check_step, normalization):
    check_step("dcgan", f"generator.normalization={normalization}")


@pytest.mark.parametrize(
    "options",
    ["stride: strided", "running_average: true", "through_gradient: true", "affine: false, batch_norm: true"],
)
def test_options_of_conv_norm(check_step, options):
    check_step("dcgan", f"{D_NORM}{{name: conv_norm, {options}}}")


@pytest.mark.parametrize("options", ["learn_gain: true", "gain: 0.5, only_lower: true"])
def test_options_of_spectral(check_step, options):
    check_step("dcgan", f"{D_NORM}{{name: spectral, {options}}}")


@pytest.mark.parametrize("penalty", sorted(REGULARIZERS))
def test_penalties(check_step, penalty):
    check_step("dcgan", D_NORM + "conv_norm", f"regularizers={{{penalty}: {{}}}}")


@pytest.mark.parametrize("norm", sorted(ACTIVATION_NORMS))
def test_class_conditional_activation_norms(check_step, norm):
    check_step(
        "dcgan",
        *("data.conditional=true", f"generator.activation_norm={norm}", f"discriminator.activation_norm={norm}"),
    )


# Operations whose CUDA kernels raise RuntimeError under torch.use_deterministic_algorithms (its documentation has a
# list), of those that networks and data could use.
NONDETERMINISTIC = {
    *("upsample_linear1d_backward", "upsample_bilinear2d_backward"),
    *("adaptive_avg_pool2d_backward", "reflection_pad2d_backward", "replication_pad2d_backward"),
    *("grid_sampler_2d_backward", "bincount", "put_", "kthvalue", "median"),
}


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
@pytest.mark.parametrize("fused", [False, True])
def test_deterministic_step_has_only_deterministic_kernels(check_step, monkeypatch, upsample, fused):
    forms = {"average": "kernel", "nearest": "kernel", "bilinear": "map"} if fused else {}
    monkeypatch.setitem(switch.FUSED_RESAMPLING, NAME, forms)
    torch.use_deterministic_algorithms(True)
    try:
        _, gpu = check_step("resnet", f"generator.upsample={upsample}")
    finally:
        torch.use_deterministic_algorithms(False)
    assert not NONDETERMINISTIC & gpu.launches.keys()


OPTIONS = [
    ["train.augment=[ada, color, translation, cutout]", "regularizers={r1: {}, dragan: {}}", "loss=relativistic"],
    ["data.conditional=true", "train.first=generator", "train.generator_batch_size=8", "train.channels_last=false"],
    ["generator.upsample=bilinear", "generator.attention=16", "discriminator.attention=8"],
    ["optimizer.schedule=cosine", "data.subset=0.5", "train.precision=bf16"],
    [
        "optimizer={schedule: constant, generator: {lr: {start: 1, end: 0}}}",
        "regularizers={r1: {weight: {start: 1, end: 0}}, zcr: {weight: {start: 1, end: 0}}}",
        "train={ema_halflife_kimg: {start: 0, end: 1}, augment: [ada], accumulate: 2}",
        "train.ada={p: {start: 0, end: 1}, target: null, cutout: 1}",
    ],
]


@pytest.mark.parametrize("overrides", OPTIONS)
def test_other_options(check_step, overrides):
    check_step("resnet", *overrides)


def test_scan_of_the_frequency_grid_does_not_wait(check_step):
    check_step("dcgan", D_NORM + "{name: spectral_conv, rescan_every: 1}")


@pytest.mark.parametrize("normalization", ["spectral_conv", "conv_norm", "gradient"])
def test_measuring_mixes_no_devices(check_step, normalization):
    experiment, gpu = check_step("dcgan", D_NORM + normalization, "data.conditional=true")
    with gpu:
        losses = training_step(experiment, experiment.G, experiment.D)
        gpu.forget()
        find_nonfinite(experiment.networks, losses)
        assert gpu.find(*WAITING).total() == 1
        gpu.forget()
        experiment.evaluated_generator()
        assert not gpu.find("sync")
        assert gpu.find("h2d", "d2h").total() == 3  # the classes to the CPU, then z and y to the GPU
        gradient_norm(experiment.D)
        lipschitz_numbers(experiment)
        lipschitz_audit(experiment)
        assert fixed_samples(experiment.ema.network, experiment.inputs).device.type == NAME


LAUNCHES = {  # of one iteration of SNGAN-ResNet 32: five updates of D, one of G, and the average
    "none": 820,
    "spectral": 1168,  # 2,226 with each layer on its own
    "conv_norm": 1757,  # 2,830 with the FFT
}


@pytest.mark.parametrize("normalization", LAUNCHES)
def test_launches_of_an_iteration(normalization, monkeypatch):
    """The numbers may go down. They do not depend on the widths, and count operations, not the kernels inside them."""
    monkeypatch.setitem(switch.FUSED_RESAMPLING, NAME, switch.FUSED_RESAMPLING["cuda"])
    gpu = FakeGPU()
    narrow = ("generator.width=8", "discriminator.width=8", "train.batch_size=2", "train.generator_batch_size=4")
    keys = ("eval.metrics=[]", "optimizer.schedule=constant", D_NORM + normalization, *narrow)
    experiment = build(load_config(Config, CONFIG, keys), gpu, side=32)
    with gpu:
        training_step(experiment, experiment.G, experiment.D)
        gpu.forget()
        training_step(experiment, experiment.G, experiment.D)
    assert gpu.launches.total() == LAUNCHES[normalization], dict(gpu.launches)


def test_waiting_is_noticed():
    gpu = FakeGPU()
    with gpu:
        x = torch.zeros(3, device=gpu.device)
        for wait in (x.sum().item, x.tolist, x.nonzero, lambda: x[x > 0], lambda: bool(x.sum() > 0), x.unique):
            gpu.forget()
            wait()
            assert gpu.find("sync"), wait
        gpu.forget()
        x.cpu()
        torch.zeros(3).to(gpu.device)
        x[torch.tensor([0])]
        assert gpu.find("d2h").total() == 1
        assert gpu.find("h2d").total() == 2
        with pytest.raises(RuntimeError):
            x + torch.zeros(3)
        with pytest.raises(RuntimeError):
            torch.randn(3, generator=torch.Generator("cpu"), device=gpu.device)
