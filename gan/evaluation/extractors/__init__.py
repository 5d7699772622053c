"""Feature spaces by name. Every module of this package is imported, so a new file needs no other change."""

import sys

from gan.evaluation.extractors.base import (
    EXTRACTORS,
    FeatureSpace,
    MetricsConfig,
    build_extractor,
    get_feature_space,
    obtain,
)
from models.registry import import_submodules

__all__ = ["EXTRACTORS", "FeatureSpace", "MetricsConfig", "build_extractor", "get_feature_space", "obtain"]

import_submodules(sys.modules[__name__])
