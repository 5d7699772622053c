"""The features of a small classifier of the bundled digits. Nothing is downloaded."""

from typing import ClassVar

import torch

from gan.data.datasets.digits import Digits
from gan.evaluation.extractors.base import EXTRACTORS, FeatureSpace, MetricsConfig
from gan.runtime.cache import cached, hash_values
from metrics.extractors.digits import DigitsClassifier, DigitsExtractor, train_digits_classifier


@EXTRACTORS.register("digits")
class DigitsSpace(FeatureSpace):
    """64 features and 10 classes for each channel of an image of digits."""

    digits_only: ClassVar[bool] = True
    keeps_gray: ClassVar[bool] = True

    def build(self, options: MetricsConfig, resolution: int, device: torch.device) -> DigitsExtractor:
        """Return the extractor. Its classifier is trained at the first use and then read from the cache."""
        return DigitsExtractor(digits_classifier(resolution).to(device))


def digits_classifier(resolution: int) -> DigitsClassifier:
    """Return the classifier of gray digits of this resolution, trained on the training images of the digits dataset."""
    scans = Digits(resolution=resolution).load().train
    key = hash_values(scans.images, scans.labels, DigitsClassifier.VERSION)
    state = cached(f"digits_classifier-{key}", lambda: train_digits_classifier(scans.images, scans.labels).state_dict())
    classifier = DigitsClassifier()
    classifier.load_state_dict(state)
    return classifier.eval().requires_grad_(False)
