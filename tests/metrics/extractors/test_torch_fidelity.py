import pytest
import torch
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from metrics.extractors.torch_fidelity import TorchFidelityExtractor

BUILT = []


class Tiny(FeatureExtractorBase):
    """An extractor with two layers, mean colors and a random projection of them. FID uses the second layer."""

    def __init__(self, name, features_list, **options):
        super().__init__(name, features_list)
        if name == "offline":
            raise OSError("no network")
        BUILT.append(name)
        weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(len(name)))
        self.weight = torch.nn.Parameter(weight)

    @staticmethod
    def get_provided_features_list():
        return "first", "second"

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return {"isc": "first", "fid": "second"}[metric]

    def forward(self, images):
        assert images.dtype == torch.uint8
        mean = images.float().mean(dim=(2, 3))
        layers = {"first": mean, "second": mean @ self.weight}
        return tuple(layers[name] for name in self.features_list)


@pytest.fixture(autouse=True)
def registered_extractors(monkeypatch):
    for name in ("tiny", "other", "offline"):
        monkeypatch.setitem(FEATURE_EXTRACTORS_REGISTRY, name, Tiny)
    BUILT.clear()


def test_features_come_from_the_layer_for_fid():
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    extractor = TorchFidelityExtractor("tiny")
    features, logits = extractor(images)
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(features, images.float().mean(dim=(2, 3)) @ weight)
    assert not features.requires_grad
    assert logits is None
    assert torch.equal(extractor(images[:, :1]).features, extractor(images[:, :1].repeat(1, 3, 1, 1)).features)
    assert BUILT == ["tiny"]


def test_fingerprint_depends_on_name_and_weights():
    assert TorchFidelityExtractor("tiny").fingerprint == TorchFidelityExtractor("tiny").fingerprint
    assert TorchFidelityExtractor("tiny").fingerprint != TorchFidelityExtractor("other").fingerprint


def test_unknown_names_and_missing_weights_are_rejected():
    with pytest.raises(ValueError, match=r"no feature extractor 'dino' \(choices: .*dinov2-vit-l-14"):
        TorchFidelityExtractor("dino")
    with pytest.raises(ValueError, match="cannot load the weights of 'offline': no network"):
        TorchFidelityExtractor("offline")
