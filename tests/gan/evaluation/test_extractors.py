from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from classification.config import Config
from gan.evaluation.extractors import EXTRACTORS, MetricsConfig
from gan.evaluation.extractors.base import build_extractor
from gan.evaluation.extractors.classifier import load_classifier
from gan.evaluation.extractors.torch_fidelity import CLIP, DINOV2
from gan.options.loader import dump_config, load_config
from gan.runtime.errors import UserError
from gan.runtime.weights import read_weights
from metrics.extractors.classifier import ClassifierExtractor

CPU, ROOT = torch.device("cpu"), Path(__file__).parents[3]


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
        build_extractor(name, MetricsConfig(), 32, CPU)
    assert not empty_hub.exists()


def test_weights_of_a_longer_name_do_not_match_a_shorter_name(empty_hub):
    empty_hub.mkdir(parents=True)
    (empty_hub / f"clip-vit-l-14-336px-{'0' * 64}.pt").touch()
    with pytest.raises(UserError, match="weights of clip-vit-l-14 are not in"):
        build_extractor("clip-vit-l-14", MetricsConfig(), 32, CPU)


def test_file_without_inception_weights_is_an_error(tmp_path):
    path = tmp_path / "weights.pth"
    for content in (b"text", None):
        if content is None:
            torch.save({"fc.weight": torch.zeros(3)}, path)
        else:
            path.write_bytes(content)
        with pytest.raises(UserError, match=r"^metrics\.inception_weights: .*weights\.pth"):
            build_extractor("inception", MetricsConfig(inception_weights=str(path)), 32, CPU)
    with pytest.raises(UserError, match=r"absent\.pth"):
        build_extractor("inception", MetricsConfig(inception_weights=str(tmp_path / "absent.pth")), 32, CPU)


def test_classifier_must_be_named_and_be_one(tmp_path):
    with pytest.raises(UserError, match=r"set metrics\.classifier=FILE"):
        build_extractor("classifier", MetricsConfig(), 32, CPU)
    save_file({"weight": torch.zeros(1)}, tmp_path / "weights.safetensors")
    for name, reason in (("absent.safetensors", "cannot read"), ("weights.safetensors", "contains no description")):
        with pytest.raises(UserError, match=rf"{reason}.*train_classifier\.py|{reason}.*{name}"):
            build_extractor("classifier", MetricsConfig(classifier=str(tmp_path / name)), 32, CPU)


def test_classifier_without_linear_layer_has_no_features():
    with pytest.raises(ValueError, match="Sequential has no linear layer"):
        ClassifierExtractor(nn.Sequential(nn.Flatten()))


def test_shipped_classifier_is_that_of_its_config():
    path = ROOT / "assets" / "cifar10_jpeg_classifier.safetensors"
    network, image = load_classifier(path)
    assert image == (3, 32, 10)
    config = load_config(Config, ROOT / "configs" / "classification" / "cifar10_jpeg.yaml")
    assert read_weights(path)[1]["config"] == dump_config(config)
    assert network.standardize.mean.flatten().tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.002)
    assert network.standardize.std.flatten().tolist() == pytest.approx([0.247, 0.243, 0.261], abs=0.002)
