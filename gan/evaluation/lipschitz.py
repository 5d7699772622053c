"""Lipschitz estimates of any network, by tag.

There are three kinds of estimates. A *tracked* number is an estimate from below, which converges with the iterations.
An *observed* number is found at given points or by a search from them, and is a lower bound. A *certified* number is an
upper bound. The tags are those of metrics.jsonl. Each begins with a prefix for the network, such as `lipschitz/D`, and
ends with:

    layers/PATH        tracked: operator norm of a layer
    product            tracked: product of these norms, which is neither a lower nor an upper bound of the network
    gradient_max       observed: largest norm of the input gradient
    gradient_mean      observed: mean norm of the input gradient
    slope              observed: steepest slope found by gradient ascent
    certified          certified: upper bound of the network's Lipschitz constant
    stable_rank/PATH   squared Frobenius norm of a layer over its squared operator norm
    spectra/PATH       singular values of a layer; for a large convolution, those of the circular convolution

A number that is not finite is left out. For example, layer norm and attention have no certified bound, and a diverged
network has no estimates. A number whose measurement fails is left out, too, and the reason is reported as a warning.
"""

import math
from collections.abc import Callable
from functools import partial
from operator import call

from torch import Tensor, nn

from gan.evaluation.options import LipschitzConfig
from gan.runtime.distributed import all_gather
from metrics.lipschitz import (
    LipschitzTracker,
    certified_bound,
    input_gradient_norms,
    singular_values,
    stable_rank,
    steepest_slope,
)
from metrics.lipschitz.attempt import attempt
from metrics.lipschitz.eval_mode import eval_mode
from metrics.lipschitz.host import to_host
from metrics.lipschitz.tracker import Spaces

SLOPE_POINTS = 16  # points from which gradient ascent starts


def measure_lipschitz(
    tag: str,
    tracker: LipschitzTracker,
    function: nn.Module,
    x: Tensor,
    y: Tensor | None,
    run: Callable[[Callable[[], Spaces]], Spaces] = call,
) -> dict[str, float]:
    """Return the estimates that are cheap enough to be logged often: layer norms, their product, input gradients.

    Args:
        tag: Prefix of the tags.
        tracker: Tracker of the network's layers.
        function: Maps images, and labels if there are any, to one number per image (B,): the network itself or an
            entry of its output.
        x: Images (B, C, H, W) at which the input gradients are taken. With several processes, their local shard.
        y: Labels (B,), or None.
        run: As in `LipschitzTracker.measure`.
    """
    norms = tracker.measure(run)
    gradients = all_gather(_try_input_gradient_norms(function, x, y)).cpu()  # read once
    return finite_values(
        {
            f"{tag}/product": tracker.product(norms),
            f"{tag}/gradient_max": gradients.max().item(),
            f"{tag}/gradient_mean": gradients.mean().item(),
            **{f"{tag}/layers/{path}": norm for path, norm in norms.items()},
        }
    )


def audit_lipschitz(
    tag: str, tracker: LipschitzTracker, function: nn.Module, x: Tensor, y: Tensor | None, label: Tensor | None = None
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the expensive estimates of a full audit: numbers by tag, and the singular values of each layer by tag.

    Args:
        tag: Prefix of the tags.
        tracker: Tracker of the network's layers.
        function: As in `measure_lipschitz`. The slope belongs to it, the certified bound to the tracked network.
        x: Images (B, C, H, W); the search for the steepest slope starts at those with the largest input gradients.
        y: Labels (B,), or None.
        label: One label (1,) for the certified bound of a conditional network.
    """
    network = tracker.model
    x_steepest, y_steepest = _find_steepest(function, x, y)
    measured = {}
    for path, layer in tracker.layers.items():
        measure = partial(singular_values, layer, tracker.input_shapes[path])
        values = attempt(f"the singular values of {path}", measure, None)
        if values is not None:
            measured[path] = values
    with eval_mode(network):  # batch norm has a bound only in evaluation mode
        bound = partial(certified_bound, network, x.shape[1:], label)
        certified = attempt("the certified bound", bound, math.nan)
    slope = attempt("the steepest slope", partial(steepest_slope, function, x_steepest, y_steepest), math.nan)
    on_host = zip(measured, to_host(list(measured.values())), strict=True)
    spectra = {path: values for path, values in on_host if values.isfinite().all()}
    numbers = {
        f"{tag}/certified": certified,
        f"{tag}/slope": slope,
        **{f"{tag}/stable_rank/{path}": stable_rank(values) for path, values in spectra.items()},
    }
    return finite_values(numbers), {f"{tag}/spectra/{path}": values for path, values in spectra.items()}


def measure_due(
    options: LipschitzConfig,
    due: Callable[[int], bool],
    measure: Callable[[], dict[str, float]],
    audit: Callable[[], tuple[dict[str, float], dict[str, Tensor]]],
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the estimates that are due after a training step, and the singular values of a full audit, both by tag.

    `due(every)` says what is due; `measure` and `audit` return what `measure_lipschitz` and `audit_lipschitz` return.
    """
    numbers = measure() if due(options.every) else {}
    audited, spectra = audit() if due(options.audit_every) else ({}, {})
    return numbers | audited, spectra


def explain_unmeasured(tracker: LipschitzTracker) -> list[str]:
    """Return a line for each reason why layers of a network have no operator norm."""
    reasons: dict[str, list[str]] = {}
    for path, reason in tracker.unmeasured.items():
        reasons.setdefault(reason, []).append(path or "the whole network")
    return [f"no operator norm: {', '.join(paths)} ({reason})" for reason, paths in reasons.items()]


def finite_values(numbers: dict[str, float]) -> dict[str, float]:
    """Return the numbers that are finite."""
    return {tag: value for tag, value in numbers.items() if math.isfinite(value)}


def _try_input_gradient_norms(function: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
    """Return the norms, or NaN after an error, since other processes wait for them."""
    failed = x.new_full((len(x),), math.nan)
    return attempt("the input gradients", partial(input_gradient_norms, function, x, y), failed)


def _find_steepest(function: nn.Module, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the images of all processes where the input gradient of `function` is largest, and their labels."""
    norms = _try_input_gradient_norms(function, x, y)
    best = norms.topk(min(SLOPE_POINTS, len(norms))).indices  # of the local shard, so that little is communicated
    norms, x = all_gather(norms[best]), all_gather(x[best])
    y = None if y is None else all_gather(y[best])
    best = norms.topk(min(SLOPE_POINTS, len(norms))).indices
    return x[best], None if y is None else y[best]
