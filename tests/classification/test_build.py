import pytest
import torch

from classification.build import channel_statistics
from classification.config import StandardizeConfig
from gan.objectives.regularizers.gradient import R1
from gan.objectives.regularizers.weight import OrthogonalConvolution
from gan.runtime.errors import UserError
from models.networks.classifiers import ResNet10Config
from models.normalizations.conv_norm import ConvNorm
from models.normalizations.conv_norm_layers import ConvNorm2d
from models.normalizations.gradient import GradientNorm


def test_first_module_standardizes_training_images(build, splits):
    network = build().network
    x = network.standardize(splits.train.images / 255)
    assert x.mean().item() == pytest.approx(0, abs=1e-5)
    assert x.std().item() == pytest.approx(1, abs=1e-5)


def test_channel_statistics_use_evenly_spaced_images():
    images = torch.arange(20_001, dtype=torch.float64).div(20_001).mul(255).to(torch.uint8)[:, None, None, None]
    mean, std = channel_statistics(images)
    assert mean.item() == pytest.approx(0.5, abs=0.01)
    assert std.item() == pytest.approx(12**-0.5, abs=0.01)


def test_standard_deviation_of_constant_channel_is_clamped():
    assert channel_statistics(torch.zeros(3, 1, 2, 2, dtype=torch.uint8))[1].item() == pytest.approx(1 / 255)


def test_statistics_of_the_config_replace_those_of_the_images(build, splits):
    given = build(standardize=StandardizeConfig(mean=(0.25,), std=(0.5,))).network.standardize
    assert (given.mean.item(), given.std.item()) == (0.25, 0.5)
    measured = channel_statistics(splits.train.images)
    half = build(standardize=StandardizeConfig(std=(0.5,))).network.standardize
    assert (half.mean.item(), half.std.item()) == (measured[0].item(), 0.5)
    with pytest.raises(UserError, match=r"standardize.std: 3 values, but the images have 1 channels"):
        build(standardize=StandardizeConfig(std=(0.5, 0.5, 0.5)))


def test_weights_depend_on_seed(build):
    a, b, c = (build(seed=seed).network.network.fc.weight for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_normalization_is_applied(build):
    network = build(classifier=ResNet10Config(width=4, normalization=ConvNorm())).network
    assert isinstance(network.network.conv1, ConvNorm2d)


def test_options_of_discriminators_are_user_errors(build):
    with pytest.raises(UserError, match="`gradient` needs a network with a single logit"):
        build(classifier=ResNet10Config(normalization=GradientNorm()))
    with pytest.raises(UserError, match="r1 is for discriminators; a classifier supports ocnn, orthogonal"):
        build(regularizers={"r1": R1()})
    with pytest.raises(
        UserError, match=r"regularizers\.ocnn\.networks: a classifier has no generator; remove this key"
    ):
        build(regularizers={"ocnn": OrthogonalConvolution(networks=("generator",))})
    assert build(regularizers={"ocnn": OrthogonalConvolution()}).regularizers
