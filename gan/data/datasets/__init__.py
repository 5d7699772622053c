"""All datasets, by name. All modules of this package are imported automatically."""

import sys

from gan.data.base import DATASETS
from models.registry import import_submodules

__all__ = ["DATASETS"]

import_submodules(sys.modules[__name__])
