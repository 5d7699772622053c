"""Base of the feature spaces: each builds the extractor that computes the features of a metric."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from gan.evaluation.trained_classifiers import add_fingerprint
from gan.runtime.errors import UserError
from metrics.extractors.base import FeatureExtractor
from metrics.protocols import MetricProtocol
from models import ImageShape
from models.registry import Registry, UnknownNameError

EXTRACTORS: Registry["FeatureSpace"] = Registry("feature space")


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """Weights and settings of the networks that compute the features."""

    inception_weights: str | None = None
    """File with the weights of Inception (null: the file that torch-fidelity downloads to torch's hub folder)"""
    download: bool = False
    """Download missing weights"""
    optional: bool = True
    """Start without the metrics whose weights are missing, or with others that stand in for them (false: an error)"""
    classifier: str | None = None
    """Classifier of fd_classifier10k_test: cifar10_jpeg, stl10_48, a run of train_classifier.py, or NAME@FINGERPRINT"""
    fid_preprocessing: Literal["torch_fidelity", "pytorch_fid"] = "torch_fidelity"
    """How images are resized for Inception; this is the only difference between the FIDs of the two packages"""
    statistics: str | None = None
    """An .npz file with statistics of real images, for metrics that end in _file, such as fid50k_file"""
    statistics_preprocessing: Literal["torch_fidelity", "pytorch_fid"] | None = None
    """How images were resized for a statistics file that does not record it (null: as by pytorch-fid)"""

    def __post_init__(self):
        """Add the fingerprint to the name of the classifier."""
        if self.classifier is not None:
            object.__setattr__(self, "classifier", add_fingerprint(self.classifier))


class FeatureSpace(ABC):
    """Base of all feature spaces. A subclass is registered under its name and has no options."""

    digits_only: ClassVar[bool] = False  # whether the features are defined only for images of digits
    classifies: ClassVar[bool] = True  # whether the extractor also returns logits
    keeps_gray: ClassVar[bool] = False  # whether gray images in folders keep their single channel, or become RGB

    def missing(self, options: MetricsConfig) -> list[str]:
        """Return a line for each thing that is missing on this machine, with what to do. This takes no time.

        Raises UserError for a file that the options name and that cannot be used.
        """
        return []

    def download(self, options: MetricsConfig) -> list[str]:
        """Download what is missing. Return a line for each thing that is still missing."""
        return self.missing(options)

    @abstractmethod
    def build(self, options: MetricsConfig, image: ImageShape, device: torch.device) -> FeatureExtractor:
        """Return the extractor for such images, if nothing is missing. Raises UserError if it fails."""


def obtain(space: str, options: MetricsConfig) -> list[str]:
    """Download what is missing for a feature space if the options allow it. Return a line for what is still missing.

    Raises UserError if the name is unknown, and for a file that the options name and that cannot be used.
    """
    try:
        feature_space = EXTRACTORS.get(space)()
    except UnknownNameError as error:
        raise UserError(str(error)) from None
    missing = feature_space.missing(options)
    return feature_space.download(options) if missing and options.download else missing


def build_extractor(space: str, options: MetricsConfig, image: ImageShape, device: torch.device) -> FeatureExtractor:
    """Return the extractor of a feature space for images of this shape and, if known, this number of classes.

    Raises UserError if the name is unknown or something is missing.
    """
    if missing := obtain(space, options):
        raise UserError(*missing)
    return EXTRACTORS.get(space)().build(options, image, device)


def get_feature_space(protocol: MetricProtocol) -> type[FeatureSpace]:
    """Return the feature space of a metric.

    Raises UserError if the name is unknown, or if the metric needs logits and the feature space has none.
    """
    try:
        space = EXTRACTORS.get(protocol.features)
    except UnknownNameError as error:
        raise UserError(f"{protocol}: {error}") from None
    if protocol.spec.needs_logits and not space.classifies:
        raise UserError(f"{protocol}: {protocol.metric} needs class logits, which {protocol.features} does not have")
    return space
