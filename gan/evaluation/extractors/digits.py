"""The features of a small classifier of the bundled digits. Nothing is downloaded."""

from typing import ClassVar

import torch

from gan.evaluation.extractors.base import EXTRACTORS, FeatureSpace, MetricsConfig
from metrics.extractors.digits import DigitsExtractor, load_digits_classifier
from models import ImageShape


@EXTRACTORS.register("digits")
class DigitsSpace(FeatureSpace):
    """64 features and 10 classes for each channel of an image of digits."""

    digits_only: ClassVar[bool] = True
    keeps_gray: ClassVar[bool] = True

    def missing(self, options: MetricsConfig) -> list[str]:
        """Return a line if the file of the weights, which is part of this package, is missing or damaged."""
        try:
            load_digits_classifier()
        except ValueError as error:
            return [str(error)]
        return []

    def build(self, options: MetricsConfig, image: ImageShape, device: torch.device) -> DigitsExtractor:
        """Return the extractor, which is the same for every resolution."""
        return DigitsExtractor(load_digits_classifier().to(device))
