"""The features of a classifier that `train_classifier.py` has trained on images of the same kind.

Distances in this space are no FID. They compare only numbers with the same classifier, whose hash is in the output.
"""

import json
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from gan.data.prepared import expand_path
from gan.evaluation.extractors.base import EXTRACTORS, FeatureSpace, MetricsConfig
from gan.options.loader import construct
from gan.options.nodes import parse_yaml
from gan.runtime.errors import UserError
from gan.runtime.weights import read_weights
from metrics.extractors.classifier import ClassifierExtractor
from models import ClassifierConfig, ImageShape, build_classifier
from models.networks.layers import standardize_images

CLASSIFIER = "classifier.safetensors"
ASSETS = Path(__file__).parents[3] / "assets"


class TrainedClassifier(NamedTuple):
    """A classifier of images (B, C, H, W) in [0, 1], and the images that it was trained on."""

    network: nn.Module
    image: ImageShape


@EXTRACTORS.register("classifier")
class ClassifierSpace(FeatureSpace):
    """The input of the last layer of the classifier in `metrics.classifier`, and its logits."""

    keeps_gray: ClassVar[bool] = True

    def missing(self, options: MetricsConfig) -> list[str]:
        """Return a line if no classifier is named. Raises UserError if a file is named that does not exist."""
        if options.classifier is None:
            return [
                "no classifier is named; set metrics.classifier=FILE, a run folder of train_classifier.py or its"
                f" {CLASSIFIER}"
            ]
        load_classifier(find_classifier(options.classifier))
        return []

    def build(self, options: MetricsConfig, resolution: int, device: torch.device) -> ClassifierExtractor:
        """Return the extractor. Raises UserError if the classifier cannot be used."""
        assert options.classifier is not None  # nothing is missing
        path = find_classifier(options.classifier)
        network, image = load_classifier(path)
        if image.resolution != resolution:
            raise UserError(
                f"metrics.classifier: {path} classifies images of {image.resolution} x {image.resolution} pixels, not"
                f" {resolution} x {resolution}; train one with the resolution of the data"
            )
        extractor = ClassifierExtractor(network, device)
        print(f"classifier of the metrics: {path}, fingerprint {extractor.fingerprint[:16]}")
        return extractor


def find_classifier(name: str) -> Path:
    """Return the file of a shipped classifier, or else the path of another one."""
    shipped = ASSETS / f"{name}_classifier.safetensors"
    return shipped if shipped.exists() else expand_path(name, "metrics.classifier")


def load_classifier(path: Path) -> TrainedClassifier:
    """Return the classifier in a run folder of `train_classifier.py`, or in its safetensors file.

    Weights in half precision are converted to single precision. Raises UserError if there is no classifier.
    """
    path = path / CLASSIFIER if path.is_dir() else path
    tensors, metadata = read_weights(path)
    if not metadata.keys() >= {"config", "image"}:
        raise UserError(f"{path} contains no description of a classifier; train it with train_classifier.py")
    options = parse_yaml(metadata["config"], str(path)).value["classifier"]
    config: ClassifierConfig = construct(ClassifierConfig, options, "classifier")
    image = ImageShape(*json.loads(metadata["image"]))
    mean, std = torch.zeros(2, image.channels)  # replaced by the values in the file
    network = standardize_images(build_classifier(config, image), mean, std)
    network.load_state_dict({name: _in_single_precision(tensor) for name, tensor in tensors.items()})
    return TrainedClassifier(network, image)


def _in_single_precision(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
