"""Lipschitz estimates: of one layer, of every layer through training, and of the whole network.

There are three kinds of estimates: *tracked* (a lower bound that converges to the operator norm of a layer), *observed*
(a slope of the network, hence a lower bound) and *certified* (an upper bound, infinite where none is known).
"""

from metrics.lipschitz.certificate import Certificate, certified_bound, certify
from metrics.lipschitz.network import input_gradient_norms, jacobian_singular_values, steepest_slope
from metrics.lipschitz.operator_norm import operator_norm
from metrics.lipschitz.spectrum import singular_values, stable_rank
from metrics.lipschitz.tracker import LipschitzTracker

__all__ = [
    "Certificate",
    "LipschitzTracker",
    "certified_bound",
    "certify",
    "input_gradient_norms",
    "jacobian_singular_values",
    "operator_norm",
    "singular_values",
    "stable_rank",
    "steepest_slope",
]
