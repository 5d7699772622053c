import pytest
import torch
from torch import nn

from gan.evaluation.extractors import EXTRACTORS, MetricsConfig
from gan.evaluation.extractors.base import build_extractor
from gan.evaluation.extractors.torch_fidelity import CLIP, DINOV2
from gan.runtime.errors import UserError
from metrics.extractors.classifier import ClassifierExtractor
from models import ImageShape

CPU, IMAGE = torch.device("cpu"), ImageShape(3, 32)


@pytest.fixture
def empty_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def test_feature_spaces_of_torch_fidelity_have_its_names():
    registry = pytest.importorskip("torch_fidelity.registry").FEATURE_EXTRACTORS_REGISTRY
    expected = {name for name in registry if name.startswith(("dinov2", "clip"))}
    assert expected == (DINOV2 | CLIP).keys() <= set(EXTRACTORS)


@pytest.mark.parametrize("name", ["inception", "dinov2-vit-b-14", "clip-vit-l-14"])
def test_missing_weights_are_not_downloaded_without_permission(empty_hub, name, monkeypatch):
    def fail(*arguments, **keywords):
        raise AssertionError("something is downloaded")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    with pytest.raises(UserError, match=r"metrics\.download=true"):
        build_extractor(name, MetricsConfig(), IMAGE, CPU)
    assert not empty_hub.exists()


def test_weights_of_a_longer_name_do_not_match_a_shorter_name(empty_hub):
    empty_hub.mkdir(parents=True)
    (empty_hub / f"clip-vit-l-14-336px-{'0' * 64}.pt").touch()
    with pytest.raises(UserError, match="weights of clip-vit-l-14 are not in"):
        build_extractor("clip-vit-l-14", MetricsConfig(), IMAGE, CPU)


def test_file_without_inception_weights_is_an_error(tmp_path):
    path = tmp_path / "weights.pth"
    for content in (b"text", None):
        if content is None:
            torch.save({"fc.weight": torch.zeros(3)}, path)
        else:
            path.write_bytes(content)
        with pytest.raises(UserError, match=r"^metrics\.inception_weights: .*weights\.pth"):
            build_extractor("inception", MetricsConfig(inception_weights=str(path)), IMAGE, CPU)
    with pytest.raises(UserError, match=r"absent\.pth"):
        build_extractor("inception", MetricsConfig(inception_weights=str(tmp_path / "absent.pth")), IMAGE, CPU)


def test_classifier_must_be_named():
    with pytest.raises(UserError, match=r"set metrics\.classifier="):
        build_extractor("classifier", MetricsConfig(), IMAGE, CPU)


def test_classifier_without_linear_layer_has_no_features():
    with pytest.raises(ValueError, match="Sequential has no linear layer"):
        ClassifierExtractor(nn.Sequential(nn.Flatten()), (3, 32, 32))
