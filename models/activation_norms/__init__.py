"""Norms of activations, one file each. A new file that registers itself is found by itself."""

import sys

from models.activation_norms.base import ACTIVATION_NORMS, ActivationNorm
from models.registry import import_submodules

__all__ = ["ACTIVATION_NORMS", "ActivationNorm"]

import_submodules(sys.modules[__name__])
