"""Feature spaces by name. A new file that registers its space is found by itself."""

import sys

from gan.evaluation.extractors.base import EXTRACTORS, FeatureSpace, MetricsConfig, Unavailable
from models.registry import import_submodules

__all__ = ["EXTRACTORS", "FeatureSpace", "MetricsConfig", "Unavailable"]

import_submodules(sys.modules[__name__])
