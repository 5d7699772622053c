"""Penalties added to the discriminator's loss. A new file that registers its penalties is found by itself."""

import sys

from gan.objectives.regularizers.base import REGULARIZERS, Batch, Regularizer
from models.registry import import_submodules

__all__ = ["REGULARIZERS", "Batch", "Regularizer"]

import_submodules(sys.modules[__name__])
