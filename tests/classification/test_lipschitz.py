import pytest
import torch

from classification.lipschitz import LabelledLogit, lipschitz_audit, lipschitz_numbers
from metrics.lipschitz import certified_bound
from models.activation_norms import ACTIVATION_NORMS
from models.networks.classifiers import ResNet10Config
from models.normalizations.spectral_conv import SpectralConvNorm


@pytest.mark.parametrize("activation_norm", ["batch", "none"])
def test_what_is_observed_is_below_what_is_certified(build, activation_norm):
    norm = ACTIVATION_NORMS.get(activation_norm)()
    run = build(classifier=ResNet10Config(width=4, activation_norm=norm))
    numbers = lipschitz_numbers(run) | lipschitz_audit(run)[0]
    tag = "lipschitz/classifier"
    ordered = [numbers[f"{tag}/{name}"] for name in ("gradient_mean", "gradient_max", "slope", "certified")]
    assert ordered == sorted(ordered)
    assert f"{tag}/layers/standardize" in numbers
    assert f"{tag}/layers/network.layer4.0.conv2" in numbers
    assert numbers[f"{tag}/product"] > 0


def test_the_bound_is_of_images_before_they_are_standardized(build):
    run = build(classifier=ResNet10Config(width=4, normalization=SpectralConvNorm()))
    run.network.eval()
    inner = certified_bound(run.network.network, (1, 8, 8))
    assert certified_bound(run.network, (1, 8, 8)) == pytest.approx(inner / run.network.standardize.std.item())


def test_a_labelled_logit_is_that_of_the_label():
    logits = torch.arange(6.0).view(2, 3)
    assert LabelledLogit(torch.nn.Identity())(logits, torch.tensor([2, 0])).tolist() == [2.0, 3.0]
