import pytest
import torch

from classification.lipschitz import LabelledLogit, lipschitz_audit, lipschitz_numbers
from metrics.lipschitz import certified_bound
from models.activation_norms import ACTIVATION_NORMS
from models.networks.classifiers import ResNet10Config
from models.normalizations.spectral_conv import SpectralConvNorm


@pytest.mark.parametrize("activation_norm", ["batch", "none"])
def test_observed_numbers_are_below_certified_bound(build, activation_norm):
    norm = ACTIVATION_NORMS.get(activation_norm)()
    experiment = build(classifier=ResNet10Config(width=4, activation_norm=norm))
    numbers = lipschitz_numbers(experiment) | lipschitz_audit(experiment)[0]
    tag = "lipschitz/classifier"
    ordered = [numbers[f"{tag}/{name}"] for name in ("gradient_mean", "gradient_max", "slope", "certified")]
    assert ordered == sorted(ordered)
    assert f"{tag}/layers/standardize" in numbers
    assert f"{tag}/layers/network.layer4.0.conv2" in numbers
    assert numbers[f"{tag}/product"] > 0


def test_bound_includes_standardization(build):
    network = build(classifier=ResNet10Config(width=4, normalization=SpectralConvNorm())).network.eval()
    inner = certified_bound(network.network, (1, 8, 8))
    assert certified_bound(network, (1, 8, 8)) == pytest.approx(inner / network.standardize.std.item())


def test_labelled_logit():
    logits = torch.arange(6.0).view(2, 3)
    assert LabelledLogit(torch.nn.Identity())(logits, torch.tensor([2, 0])).tolist() == [2.0, 3.0]
