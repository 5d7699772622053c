"""Certified bound of a network, operation by operation through its trace.

Each tensor gets a bound of its Lipschitz constant as a function of the network's input. The bounds of a composition are
multiplied and those of a sum are added, so that a residual block x + h(x) has the bound 1 + Lip(h). A convolution is
bounded together with a batch norm or an average pooling after it, as one convolution, and averages, paddings and the
like are bounded together, as one linear map. This is tighter than the product of their bounds. An operation that is not
listed in `metrics.lipschitz.operators` has no bound, and neither has what depends on it.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves, tree_map_only

from metrics.lipschitz.operators import Call, apply_rule
from metrics.lipschitz.trace import Opaque, Step, Trace, UntraceableError, record
from metrics.lipschitz.values import Choice, Value, joint_bound


def network_bound(network: nn.Module, x: Tensor, y: Tensor | None) -> tuple[float, str | None]:
    """Return an upper bound (l2) of x -> network(x), or network(x, y) for any labels y, with all outputs side by side.

    If there is none, the bound is infinite and comes with the reason. Only the shape of x (1, ...) matters.
    """
    try:
        trace = record(network, x, y)
    except UntraceableError as error:
        return math.inf, str(error)
    with torch.no_grad():
        return _Bounds(trace).outputs()


class _Bounds:
    def __init__(self, trace: Trace):
        self.trace = trace
        self.known: dict[int, Value | Choice] = {
            id(trace.x): Value(trace.x.shape, trace.x.device, lambda: 1.0),
        }
        if trace.y is not None:
            device = trace.y.device
            self.known[id(trace.y)] = Choice(trace.y.shape, lambda label: label.to(device))
        for step in trace.steps:
            for output, known in zip(tree_leaves(step.output), self._bound(step), strict=True):
                self.known[id(output)] = known

    def outputs(self) -> tuple[float, str | None]:
        """Return the joint bound of all outputs, and the reason if it is infinite."""
        known = [self.known[id(output)] for output in self.trace.outputs if isinstance(output, FakeTensor)]
        values = [value for value in known if isinstance(value, Value)]
        bound = joint_bound(values)
        if not math.isinf(bound):
            return bound, None
        return bound, next((value.find_reason() for value in values if math.isinf(value.bound)), "overflow")

    def _bound(self, step: Step) -> list[Any]:
        args, kwargs = tree_map_only(FakeTensor, lambda fake: self.known[id(fake)], (step.args, step.kwargs))
        known = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Value | Choice)]
        outputs = tree_leaves(step.output)
        if not any(isinstance(leaf, Value) for leaf in known):
            return [_choice(step, args, kwargs, i) for i in range(len(outputs))]
        if not isinstance(step.function, Opaque):
            return apply_rule(Call(step.function, args, kwargs, outputs, step.label))
        values = [value for value in known if isinstance(value, Value)]
        return [Value(outputs[0].shape, outputs[0].device, self._opaque(step.function, args[0]), step.label, values)]

    def _opaque(self, function: Opaque, args: list[Any]):
        """The bound of a module is that of its first argument; others must not depend on x."""
        x, *others = args

        def compute() -> float:
            if not isinstance(x, Value) or any(isinstance(other, Value) for other in others):
                return math.inf
            return x.bound * function.bound(tuple(x.shape[1:]))

        return compute


def _choice(step: Step, args: Any, kwargs: Any, index: int) -> Choice:
    """Return an output of a step that depends only on labels, or on nothing if it is random or not initialized."""
    choices = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Choice)]
    shape = tree_leaves(step.output)[index].shape
    name = "" if isinstance(step.function, Opaque) else str(step.function.overloadpacket)
    random = not choices or isinstance(step.function, Opaque) or torch.Tag.nondeterministic_seeded in step.function.tags
    if random or any(choice.evaluate is None for choice in choices):
        return Choice(shape, None)
    count = min(choice.count for choice in choices)
    if name == "aten.embedding" and isinstance(args[0], Tensor):
        count = min(count, len(args[0]))

    def evaluate(label: Tensor) -> Tensor:
        filled, options = tree_map_only(Choice, lambda choice: choice.at(label), (args, kwargs))
        return tree_leaves(step.function(*filled, **options))[index]

    return Choice(shape, evaluate, count)
