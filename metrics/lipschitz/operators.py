"""The operators that have a bound, each with its rule. An operator that is not listed here has none.

A rule takes a `Call` and returns a `Value` or the bound (l2) of the call's first output, or one for each output.
Further outputs, and calls that a rule does not cover, have no bound.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from metrics.lipschitz import convolution_rules, linear_rules
from metrics.lipschitz.activations import ACTIVATIONS, log_softmax
from metrics.lipschitz.calls import Call, UncoveredError
from metrics.lipschitz.convolution_rules import as_tuple
from metrics.lipschitz.values import Choice, Value, joint_bound

Rule = Callable[[Call], "Value | float | Sequence[Value | float] | None"]


def _activation(call: Call) -> float | None:
    options = dict(list(call.arguments.items())[1:])
    if any(isinstance(option, Choice) for option in options.values()):
        return None
    return ACTIVATIONS[call.name](**options) * call.repeated(call.x)


def _ordered(call: Call) -> Sequence[float]:
    """Entries selected by their order, as by `sort` or `max` over an axis: the first output moves no more than x.

    `logsumexp` has a softmax as gradient, whose norm is at most 1.
    """
    return [call.x.bound] * (2 if call.name == "aminmax" else 1)


def _maximum(call: Call) -> Value | float | None:
    """The larger or smaller entry of two values."""
    a, b = call["self"], call["other"]
    both = [value for value in (a, b) if isinstance(value, Value)]
    if any(value.shape != call.shape for value in both):
        return math.sqrt(sum(call.repeated(value) ** 2 for value in both))
    name = {"max": "maximum", "min": "minimum"}.get(call.name, call.name)
    order = (name, a, b) if len(both) == 2 else None
    return call.value(lambda: joint_bound(both), order=order)


def _max_or_min(call: Call) -> Any:
    """`max` and `min` have two forms: of two tensors, and over an axis."""
    if "other" in call.arguments:
        return _maximum(call)
    return _ordered(call)


def _vector_norm(call: Call) -> float | None:
    order = call.arguments.get("ord", call.arguments.get("p", 2))
    return call.x.bound if order in (2, math.inf) else None


def _max_pooled(call: Call) -> float:
    """A maximum over windows: the square root of the number of windows in which an entry can be the maximum."""
    x = call.x
    axes = int(call.name[len("max_pool")])
    size, dilation = as_tuple(call["kernel_size"], axes), as_tuple(call["dilation"], axes)
    stride = as_tuple(call["stride"] or size, axes)
    # Windows i with i s + j d = const for some tap j: the taps j are equal modulo s / gcd(s, d).
    counts = (math.ceil(k * math.gcd(s, d) / s) for k, s, d in zip(size, stride, dilation, strict=True))
    return x.bound * math.sqrt(math.prod(counts))


def _adaptive_max_pooled(call: Call) -> float:
    """A maximum over windows [floor(i n / m), ceil((i + 1) n / m)) along each axis."""
    x = call.x
    counts = []
    for n, m in zip(x.shape[2:], call.shape[2:], strict=True):
        counted = torch.zeros(n, dtype=torch.int64)
        for i in range(m):
            counted[i * n // m : -(-(i + 1) * n // m)] += 1
        counts.append(int(counted.max()))
    return x.bound * math.sqrt(math.prod(counts))


def _log_softmax(call: Call) -> float:
    x = call.x
    return log_softmax(x.shape[call["dim"]] if x.shape else 1) * x.bound


RULES: dict[str, Rule] = {
    **dict.fromkeys(ACTIVATIONS, _activation),
    **dict.fromkeys(
        ("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "squeeze", "unsqueeze", "alias", "detach",
         "clone", "contiguous", "lift_fresh", "flip", "roll", "slice", "select", "split", "split_with_sizes", "chunk",
         "unbind", "diagonal", "tril", "triu", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
         "native_channel_shuffle"), linear_rules.rearranged),
    **dict.fromkeys(
        ("expand", "repeat", "unfold", "cumsum", "constant_pad_nd", "im2col", "col2im", "index_select", "index",
         "gather", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d", "upsample_linear1d",
         "upsample_bilinear2d", "upsample_trilinear3d", "_upsample_bilinear2d_aa",
         *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)),
         *(f"{kind}{n}d" for kind in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3))),
        linear_rules.nonnegative),
    **dict.fromkeys(("sum", "mean"), linear_rules.summed),
    **dict.fromkeys(("cat", "stack", "slice_scatter", "select_scatter", "diagonal_scatter"), linear_rules.joined),
    **dict.fromkeys(("logsumexp", "sort", "msort", "topk", "kthvalue", "median", "amax", "amin", "aminmax"), _ordered),
    **dict.fromkeys(("max", "min"), _max_or_min),
    **dict.fromkeys(("maximum", "minimum", "fmax", "fmin"), _maximum),
    **dict.fromkeys(("linalg_vector_norm", "norm"), _vector_norm),
    **dict.fromkeys(("add", "sub", "rsub"), linear_rules.sum_of_two),
    **dict.fromkeys(("mul", "div"), convolution_rules.product),
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "addmm", "baddbmm", "addmv", "linear"), linear_rules.matrix_product),
    **dict.fromkeys(
        ("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "cudnn_batch_norm",
         "miopen_batch_norm"), convolution_rules.batch_norm),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), convolution_rules.average_pooled),
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool3d_with_indices"), _max_pooled),
    **dict.fromkeys(("adaptive_max_pool2d", "adaptive_max_pool3d"), _adaptive_max_pooled),
    **dict.fromkeys(("fill", "zero"), linear_rules.filled),
    "copy": linear_rules.copied,
    "where": linear_rules.where,
    "masked_fill": linear_rules.masked_fill,
    "_to_copy": linear_rules.cast,
    "lerp": linear_rules.interpolated,
    "_log_softmax": _log_softmax,
    "convolution": convolution_rules.convolution,
}  # fmt: skip


def apply_rule(call: Call) -> list[Value]:
    """Return the outputs of a call that depends on x. Those without a bound have infinity."""
    rule = RULES.get(call.name) if str(call.function.overloadpacket).startswith("aten.") else None
    try:
        found = rule(call) if rule is not None else None
    except UncoveredError:
        found = None
    results = [] if found is None else list(found) if isinstance(found, Sequence) else [found]
    values = [
        result if isinstance(result, Value) else call.value(lambda bound=result: bound, i)
        for i, result in enumerate(results)
    ]
    unknown = [call.value(lambda: math.inf, i) for i in range(len(call.outputs))]
    pairs = itertools.zip_longest(values, unknown, call.outputs)
    return [v if v is not None and output.is_floating_point() else none for v, none, output in pairs]
