"""The features of a small classifier of the bundled digits. Nothing is downloaded."""

from typing import ClassVar

import torch

from gan.evaluation.extractors.base import EXTRACTORS, FeatureSpace, MetricsConfig, Unavailable
from metrics.extractors.digits import DigitsExtractor, load_digits_classifier
from models import ImageShape


@EXTRACTORS.register("digits")
class DigitsSpace(FeatureSpace):
    """64 features and 10 classes for each channel of an image of digits."""

    digits_only: ClassVar[bool] = True
    keeps_gray: ClassVar[bool] = True

    def build(self, options: MetricsConfig, image: ImageShape, device: torch.device) -> DigitsExtractor:
        """Return the extractor, which is the same for every resolution. Raises Unavailable without its weights."""
        try:
            return DigitsExtractor(load_digits_classifier().to(device))
        except ValueError as error:
            raise Unavailable(str(error)) from None
