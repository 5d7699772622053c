"""Feature spaces by name: where a metric's features come from, and what a run must bring for them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from gan.runtime.errors import UserError
from metrics.extractors.base import FeatureExtractor
from models.registry import Registry, UnknownNameError

EXTRACTORS: Registry["FeatureSpace"] = Registry("feature space")


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """Where the networks behind the metrics come from."""

    inception_weights: str | None = None
    """File of Inception's weights (null: the one that torch-fidelity downloads, when it is in torch's hub folder)"""
    download: bool = False
    """Download weights that are not there"""
    fid_preprocessing: Literal["torch_fidelity", "pytorch_fid"] = "torch_fidelity"
    """How images are resized for Inception; the two packages' FIDs differ in this alone"""
    statistics: str | None = None
    """A pytorch-fid .npz of real statistics, with which `_file` metrics such as fid50k_file compare"""


class Unavailable(Exception):
    """The feature space cannot be had here; the message says why, and what would bring it."""


class FeatureSpace(ABC):
    """Builds an extractor when a metric asks for its features. Registered under the space's name, without options."""

    digits_only: ClassVar[bool] = False  # whether it can judge nothing but digits
    classifies: ClassVar[bool] = True  # whether its extractor gives logits too

    @abstractmethod
    def build(self, options: MetricsConfig, resolution: int, device: torch.device) -> FeatureExtractor:
        """Return the extractor for images of this resolution; Unavailable when it cannot be had."""


def build_extractor(space: str, options: MetricsConfig, resolution: int, device: torch.device) -> FeatureExtractor:
    """Return the extractor of a feature space for images of this resolution; UserError when it cannot be had."""
    try:
        return EXTRACTORS.get(space)().build(options, resolution, device)
    except (UnknownNameError, Unavailable) as error:
        raise UserError(str(error)) from None
