"""Normalizations of activations, one file each. The norm in a new file is registered without any other edit."""

import sys

from models.activation_norms.base import ACTIVATION_NORMS, ActivationNorm
from models.registry import import_submodules

__all__ = ["ACTIVATION_NORMS", "ActivationNorm"]

import_submodules(sys.modules[__name__])
