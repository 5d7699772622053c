"""Penalties that are added to the losses of the networks. All modules of this package are imported automatically."""

import sys

from gan.objectives.regularizers.base import REGULARIZERS, Batch, Regularizer
from models.registry import import_submodules

__all__ = ["REGULARIZERS", "Batch", "Regularizer"]

import_submodules(sys.modules[__name__])
