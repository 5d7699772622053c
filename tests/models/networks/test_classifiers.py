import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from models import CLASSIFIERS, ImageShape, build_classifier
from models.activation_norms import ACTIVATION_NORMS
from models.networks.classifiers import ResNet10Config, ResNet18Config, ResNet50Config
from models.normalizations import NORMALIZATIONS

NORMS = [name for name in NORMALIZATIONS if name != "gradient"]  # gradient normalization requires a single logit


@pytest.mark.parametrize(("config", "name"), [(ResNet18Config, "resnet18"), (ResNet50Config, "resnet50")])
def test_imagenet_stem_matches_torchvision(config, name):
    ours = build_classifier(config(stem="imagenet"), ImageShape(3, 32, 1000)).eval()
    with torch.device("meta"):  # without initial weights
        theirs = getattr(torchvision_models, name)().eval()
    theirs.load_state_dict(ours.state_dict(), assign=True)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_cifar_resnet18_parameter_count():
    network = build_classifier("resnet18", ImageShape(3, 32, 10))
    assert sum(p.numel() for p in network.parameters()) == 11_173_962
    assert network.conv1.stride == (1, 1)
    maps = {}
    network.layer1.register_forward_hook(lambda module, inputs, output: maps.update(layer1=output.shape))
    network.eval()(torch.zeros(1, 3, 32, 32))
    assert maps["layer1"] == (1, 64, 32, 32), "the stem keeps the resolution"


def test_initialization_matches_torchvision():
    torch.manual_seed(0)
    network = build_classifier(ResNet10Config(width=32), ImageShape(1, 16, 10))
    for name in ("conv1", "layer2.0.conv1", "layer4.0.downsample.0"):
        conv = network.get_submodule(name)
        fan_out = conv.out_channels * conv.kernel_size[0] ** 2
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15), name


def test_initialization_of_pytorch():
    torch.manual_seed(0)
    network = build_classifier(ResNet10Config(width=32, init="pytorch"), ImageShape(1, 16, 10))
    for name in ("conv1", "layer2.0.conv1", "layer4.0.downsample.0"):
        weight = network.get_submodule(name).weight
        assert weight.abs().max().item() == pytest.approx(weight[0].numel() ** -0.5, rel=0.05), name


@pytest.mark.parametrize("width", [1, 5, 64])
def test_width_scales_every_stage(width):
    network = build_classifier(ResNet10Config(width=width), ImageShape(1, 16, 7))
    assert [network.get_submodule(f"layer{i}.0.conv2").out_channels for i in (1, 2, 3, 4)] == [
        width * 2**i for i in range(4)
    ]
    assert network.eval()(torch.zeros(2, 1, 16, 16)).shape == (2, 7)


@pytest.mark.parametrize("norm", list(ACTIVATION_NORMS))
def test_activation_norms(norm):
    config = ResNet10Config(width=8, activation_norm=ACTIVATION_NORMS.get(norm)())
    network = build_classifier(config, ImageShape(1, 16, 10))
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == (norm == "batch")
    network(torch.randn(3, 1, 16, 16)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


FAST = {"none", "conv_norm"}  # of the wider network


@pytest.mark.parametrize(
    ("name", "norm"),
    [  # a network of each type of block with every normalization
        pytest.param(name, norm, marks=pytest.mark.slow if name == "resnet50" and norm not in FAST else ())
        for name in CLASSIFIERS
        for norm in NORMS
        if name in {"resnet10", "resnet50"} or norm == "none"
    ],
)
def test_every_normalization_has_finite_gradients(name, norm):
    config = CLASSIFIERS.get(name)(width=2, normalization=NORMALIZATIONS.get(norm)())
    network = build_classifier(config, ImageShape(1, 8, 10))
    logits = network(torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (3, 10)
    assert logits.isfinite().all()
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_missing_number_of_classes_is_rejected():
    with pytest.raises(ValueError, match="number of classes"):
        build_classifier("resnet10", ImageShape(1, 16))
