"""Lipschitz estimates: of one layer, of every layer through training, and of the whole network."""

from metrics.lipschitz.network import input_gradient_norms
from metrics.lipschitz.operator_norm import operator_norm
from metrics.lipschitz.tracker import LipschitzTracker, product

__all__ = ["LipschitzTracker", "input_gradient_norms", "operator_norm", "product"]
