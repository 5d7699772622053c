"""Lipschitz numbers of any network by tag."""

import math

from torch import Tensor, nn

from gan.runtime.distributed import all_gather
from metrics.lipschitz import (
    LipschitzTracker,
    certified_bound,
    input_gradient_norms,
    singular_values,
    stable_rank,
    steepest_slope,
)
from metrics.lipschitz.eval_mode import eval_mode

SLOPE_PAIRS = 16


def layer_numbers(
    tag: str, tracker: LipschitzTracker, function: nn.Module, x: Tensor, y: Tensor | None
) -> dict[str, float]:
    """Return, below `tag`, the norms of the tracked layers and their product, and input gradients at x (B, C, H, W).

    `function` gives one number an input: the tracked network itself, or what is looked at of it.
    """
    norms = tracker.measure()
    gradients = all_gather(input_gradient_norms(function, x, y))
    return finite_values(
        {
            f"{tag}/product": tracker.product(norms),
            f"{tag}/gradient_max": gradients.max().item(),
            f"{tag}/gradient_mean": gradients.mean().item(),
            **{f"{tag}/layers/{path}": norm for path, norm in norms.items()},
        }
    )


def audit_numbers(
    tag: str, tracker: LipschitzTracker, function: nn.Module, x: Tensor, y: Tensor | None, label: Tensor | None = None
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return, below `tag`, the dear numbers of a tracked network, and each layer's singular values by tag.

    The certified bound is that of the network (given `label`, (1,), if it is conditional), the slope that of
    `function`, from where it is steepest at x (B, C, H, W).
    """
    network = tracker.model
    steepest, y_steepest = _find_steepest(function, x, y)
    shapes = tracker.input_shapes
    measured = {path: singular_values(network.get_submodule(path), shape) for path, shape in shapes.items()}
    spectra = {path: values for path, values in measured.items() if values is not None}
    with eval_mode(network):  # in evaluation, where batch norm has a bound
        certified = certified_bound(network, x.shape[1:], label)
    numbers = {
        f"{tag}/certified": certified,
        f"{tag}/slope": steepest_slope(function, steepest, y_steepest),
        **{f"{tag}/stable_rank/{path}": stable_rank(values) for path, values in spectra.items()},
    }
    return finite_values(numbers), {f"{tag}/spectra/{path}": values for path, values in spectra.items()}


def _find_steepest(function: nn.Module, points: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return on every process the points of all of them where `function` is steepest, with their labels."""
    norms = input_gradient_norms(function, points, y)
    best = norms.topk(min(SLOPE_PAIRS, len(norms))).indices  # of its own, then of all
    norms, points = all_gather(norms[best]), all_gather(points[best])
    y = None if y is None else all_gather(y[best])
    best = norms.topk(min(SLOPE_PAIRS, len(norms))).indices
    return points[best], None if y is None else y[best]


def finite_values(numbers: dict[str, float]) -> dict[str, float]:
    """Return the numbers that are finite."""
    return {tag: value for tag, value in numbers.items() if math.isfinite(value)}
