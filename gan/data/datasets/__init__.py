"""Datasets by name. A new file that registers its datasets is found by itself."""

import sys

from gan.data.base import DATASETS
from models.registry import import_submodules

__all__ = ["DATASETS"]

import_submodules(sys.modules[__name__])
