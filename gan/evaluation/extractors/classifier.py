"""The features of a classifier that `train_classifier.py` has trained on images of the same kind.

Distances in this space are no FID. They compare only numbers with the same classifier, whose hash is in the config.
"""

from typing import ClassVar

import torch

from gan.evaluation.extractors.base import EXTRACTORS, FeatureSpace, MetricsConfig
from gan.evaluation.trained_classifiers import KEY, TrainedClassifier, list_shipped, load_classifier
from gan.runtime.errors import UserError
from gan.runtime.text import printable
from metrics.extractors.classifier import ClassifierExtractor
from models import ImageShape


@EXTRACTORS.register("classifier")
class ClassifierSpace(FeatureSpace):
    """The input of the last layer of the classifier in `metrics.classifier`, and its logits."""

    keeps_gray: ClassVar[bool] = True

    def missing(self, options: MetricsConfig) -> list[str]:
        """Return a line if no classifier is named. Raises UserError if the named one cannot be read."""
        if options.classifier is None:
            return [f"no classifier is named; set {KEY}=NAME, {list_shipped()} or a run of train_classifier.py"]
        load_classifier(options.classifier)
        return []

    def build(self, options: MetricsConfig, image: ImageShape, device: torch.device) -> ClassifierExtractor:
        """Return the extractor. Raises UserError if the classifier cannot be used."""
        assert options.classifier is not None  # nothing is missing
        network, trained_on, name = load_classifier_of(options.classifier, image)
        print(f"classifier of the metrics: {printable(name)}")
        return ClassifierExtractor(network, (trained_on.channels, trained_on.resolution, trained_on.resolution), device)


def load_classifier_of(name: str, image: ImageShape) -> TrainedClassifier:
    """Return a classifier by its name. Raises UserError if it cannot be read or does not classify such images."""
    classifier = load_classifier(name)
    if difference := describe_difference(classifier.image, image):
        raise UserError(f"{KEY}: {classifier.name} classifies {difference}; choose or train one for these images")
    return classifier


def describe_difference(classified: ImageShape, image: ImageShape) -> str:
    """Return in words what a classifier classifies instead of these images; an empty string if there is no difference.

    Images of an unknown number of classes may have those of the classifier.
    """
    if classified.resolution != image.resolution:
        old, new = (f"{side} x {side}" for side in (classified.resolution, image.resolution))
        return f"images of {old} pixels, not {new}"
    if classified.channels != image.channels:
        return f"images with {_count(classified.channels, 'channel')}, not {image.channels}"
    if image.num_classes not in (None, classified.num_classes):
        return f"{classified.num_classes} classes, not {image.num_classes}"
    return ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
