"""Certified bound of a whole network, node by node through its traced graph.

Each node gets a bound of its Lipschitz constant as a function of the network's input. The bounds of a composition are
multiplied and those of a sum are added, so that a residual block x + h(x) has the bound 1 + Lip(h). A convolution whose
result is used only by a batch norm or an average pooling is bounded together with it, as one convolution. This is
tighter than the product of their bounds. If a node has no known bound, the result is infinite.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from models.kernels import Conv2d
from models.protocols import GetBound, LipschitzBounded, is_composite_layer


def network_bound(network: nn.Module, x: Tensor, y: Tensor | None, get_bound: GetBound) -> float:
    """Return an upper bound (l2) of x -> network(x), or network(x, y) for a fixed y; `math.inf` where none is known.

    Only the shape of x (1, ...) matters. `get_bound(module, shape)` returns the bound of a leaf module of the trace.
    """
    tracer = _Tracer()
    fixed = None if y is not None or "y" not in inspect.signature(network.forward).parameters else {"y": None}
    try:
        graph = tracer.trace(network, fixed)
    except Exception:  # a network that cannot be traced, for any reason, has no known bound
        return math.inf
    interpreter = _Bounds(fx.GraphModule(tracer.root, graph), get_bound)
    inputs = [x] if y is None else [x, y]
    with torch.no_grad():
        interpreter.run(*inputs, *[None] * (len(interpreter.placeholders) - len(inputs)))
    return interpreter.result


class _Tracer(fx.Tracer):
    """Traces into modules that are compositions of other modules."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        declared = isinstance(module, LipschitzBounded) or is_composite_layer(module)
        # Our subclasses of these torch modules are leaves, as the torch modules are.
        layer = isinstance(module, _BatchNorm | nn.GroupNorm | nn.Embedding) or type(module) is Conv2d
        return declared or layer or parametrize.is_parametrized(module) or super().is_leaf_module(module, name)


class _Bounds(fx.Interpreter):
    """Runs the graph on example inputs, which gives the shapes, and computes the bound of each node."""

    def __init__(self, graph: fx.GraphModule, get_bound: GetBound):
        super().__init__(graph)
        self.get_bound = get_bound
        self.bounds: dict[fx.Node, float] = {}
        self.convolutions: dict[
            fx.Node, tuple[nn.Conv2d, float]
        ] = {}  # a convolution equal to the node, bound of its input
        self.placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
        self.result = math.inf

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        bound = self._bound(node, value)
        self.bounds[node] = bound = math.inf if math.isnan(bound) else bound  # 0 times infinity is unknown
        if node.op == "output":
            self.result = bound
        return value

    def _bound(self, node: fx.Node, value: Any) -> float:
        if node.op == "placeholder":
            # Labels have no bound: only a module that bounds all classes may use them.
            return 1.0 if node is self.placeholders[0] else math.inf
        incoming = [self.bounds[parent] for parent in node.all_input_nodes]
        if not any(incoming):
            return 0.0  # does not depend on x
        if node.op == "output":
            return incoming[0]
        if not isinstance(value, Tensor):
            # Sizes do not depend on the entries of x. Tuples of tensors (chunk, max over an axis) are not supported.
            return 0.0 if isinstance(value, int | torch.Size) else math.inf
        if node.op == "call_module":
            return self._module(node)
        name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
        return self._function(node, name.rstrip("_"), value)

    def _module(self, node: fx.Node) -> float:
        module: nn.Module = self.fetch_attr(str(node.target))
        source = node.args[0] if node.args else None  # None if it was called by keyword
        if not isinstance(source, fx.Node):
            return math.inf
        others = [self.bounds[other] for other in node.args[1:] if isinstance(other, fx.Node)]
        if any(others) and not isinstance(module, LipschitzBounded):
            return math.inf
        shape = self.env[source].shape[1:]
        alone = self.bounds[source] * self.get_bound(module, tuple(shape))
        if isinstance(module, nn.Conv2d):
            self.convolutions[node] = (_as_convolution(module), self.bounds[source])
        elif isinstance(module, nn.BatchNorm2d) and not module.training:
            alone = self._fuse(node, source, _times_batch_norm, module, alone)
        elif isinstance(module, nn.AvgPool2d) and _averages_disjoint_windows(module):
            alone = self._fuse(node, source, _times_average, module.kernel_size, alone)
        return alone

    def _fuse(self, node: fx.Node, source: fx.Node, combine: Callable, what: Any, alone: float) -> float:
        """Return the bound of `source` and `node` as one convolution, or `alone` if that is impossible or smaller.

        `source` must be a convolution that only `node` uses; `combine(convolution, what)` returns both as one.
        """
        if source not in self.convolutions or len(source.users) > 1:
            return alone
        convolution, before = self.convolutions[source]
        combined = combine(convolution, what)
        if combined is None:
            return alone
        self.convolutions[node] = (combined, before)
        return min(alone, before * self.get_bound(combined, None))

    def _function(self, node: fx.Node, name: str, value: Tensor) -> float:
        if any(isinstance(arg, fx.Node) for arg in node.kwargs.values()):
            return math.inf
        tensors = [arg for arg in node.args if isinstance(arg, fx.Node)]
        x = self.env[tensors[0]] if tensors else None
        incoming = [self.bounds[parent] for parent in tensors]
        if name in _ADD and not node.kwargs:
            return sum(self._broadcast(parent, value) for parent in tensors)
        if name in _PRODUCTS and len(node.args) == 2 and not node.kwargs:
            return self._product(node, name, value)
        if name == "cat" and node.args and isinstance(node.args[0], Sequence):
            parts = [part for part in node.args[0] if isinstance(part, fx.Node)]  # others are constant
            return math.sqrt(sum(self.bounds[part] ** 2 for part in parts))
        if len(tensors) != 1 or len(node.all_input_nodes) != 1 or not isinstance(x, Tensor):
            return math.inf
        if name == "getitem" and not _is_slice(node.args[1]):
            return math.inf  # an index may repeat entries
        if name in ("sum", "mean"):
            count = x.numel() / value.numel()
            return incoming[0] * (math.sqrt(count) if name == "sum" else 1 / math.sqrt(count))
        if name == "leaky_relu":
            return incoming[0] * max(1.0, abs(_argument(node, 1, "negative_slope", 0.01)))
        if name == "avg_pool2d" and _pools_disjoint_windows(node):
            size = _argument(node, 1, "kernel_size", None)
            alone = incoming[0] * self.get_bound(nn.AvgPool2d(size), None)
            return self._fuse(node, tensors[0], _times_average, size, alone)
        if name == "interpolate":
            return incoming[0] * _interpolation(node, x, value)
        return incoming[0] * _FUNCTIONS.get(name, math.inf)

    def _broadcast(self, node: fx.Node, value: Tensor) -> float:
        """Return the bound of a summand or factor that is broadcast, that is repeated, to the shape of `value`."""
        operand = self.env[node]
        repeats = value.numel() / operand.numel() if isinstance(operand, Tensor) else 1.0
        return self.bounds[node] * math.sqrt(repeats)

    def _product(self, node: fx.Node, name: str, value: Tensor) -> float:
        left: Any
        right: Any
        left, right = node.args
        if isinstance(right, fx.Node) and self.bounds[right]:
            if name == "truediv" or (isinstance(left, fx.Node) and self.bounds[left]):
                return math.inf  # a product of two functions of x
            left, right = right, left
        factor = self.env[right] if isinstance(right, fx.Node) else right
        largest = factor.abs().max().item() if isinstance(factor, Tensor) else abs(factor)
        smallest = factor.abs().min().item() if isinstance(factor, Tensor) else abs(factor)
        if name == "truediv":
            return math.inf if smallest == 0 else self._broadcast(left, value) / smallest
        return self._broadcast(left, value) * largest


_ADD = {"add", "sub", "iadd", "isub"}
_PRODUCTS = {"mul", "imul", "truediv"}
_FUNCTIONS = {
    **dict.fromkeys(("relu", "tanh", "softplus", "hardtanh", "relu6", "abs", "neg"), 1.0),
    **dict.fromkeys(("flatten", "unflatten", "view", "reshape", "squeeze", "unsqueeze", "permute", "transpose"), 1.0),
    **dict.fromkeys(("contiguous", "float", "double", "getitem", "narrow", "pixel_shuffle", "pixel_unshuffle"), 1.0),
    "sigmoid": 0.25,
}


def _averages_disjoint_windows(pool: nn.AvgPool2d) -> bool:
    """Return whether a pooling averages disjoint windows, without padding or other options."""
    disjoint = pool.stride == pool.kernel_size and pool.padding in (0, (0, 0))
    return disjoint and not (pool.ceil_mode or pool.divisor_override)


def _is_slice(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or isinstance(part, int | slice) for part in parts)


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _pools_disjoint_windows(node: fx.Node) -> bool:
    """Return whether a call of `avg_pool2d` averages disjoint windows, without padding or other options."""
    stride = _argument(node, 2, "stride", None)
    size = _argument(node, 1, "kernel_size", None)
    return stride in (None, size) and len(node.args) <= 3 and not set(node.kwargs) - {"kernel_size", "stride"}


def _interpolation(node: fx.Node, x: Tensor, value: Tensor) -> float:
    """Return the bound of nearest or bilinear upsampling by an integer r x r: each pixel is spread over r² pixels."""
    ratios = [out / size for size, out in zip(x.shape[2:], value.shape[2:], strict=True)]
    mode = _argument(node, 3, "mode", "nearest")
    if _argument(node, 4, "align_corners", None):
        return math.inf
    whole = all(ratio >= 1 and ratio == int(ratio) for ratio in ratios)
    return math.sqrt(math.prod(ratios)) if whole and mode in ("nearest", "bilinear") else math.inf


def _as_convolution(layer: nn.Conv2d, weight: Tensor | None = None, **changes: Any) -> nn.Conv2d:
    """Return a plain convolution with `weight`, or with the weight of `layer`, and other options changed."""
    weight = (layer.weight if weight is None else weight).detach()
    options = {
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "groups": layer.groups,
        "padding_mode": layer.padding_mode,
    }
    channels = weight.shape[1] * layer.groups, weight.shape[0]
    size = weight.shape[2], weight.shape[3]
    bare = nn.Conv2d(*channels, size, bias=False, device="meta", **options | changes)
    bare.weight = nn.Parameter(weight, requires_grad=False)
    return bare


def _times_batch_norm(layer: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d | None:
    """Return the convolution followed by a batch norm in evaluation mode, as one convolution."""
    if norm.running_var is None:
        return None
    scale = (norm.running_var + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight)
    return _as_convolution(layer, layer.weight * scale[:, None, None, None])


def _times_average(layer: nn.Conv2d, size: int | tuple[int, int]) -> nn.Conv2d | None:
    """Return the convolution followed by average pooling, as one strided convolution."""
    if layer.stride != (1, 1) or layer.dilation != (1, 1) or isinstance(layer.padding, str):
        return None
    kh, kw = (size, size) if isinstance(size, int) else size
    box = torch.full((1, 1, kh, kw), 1 / (kh * kw), dtype=layer.weight.dtype, device=layer.weight.device)
    kernel = F.conv2d(layer.weight.flatten(0, 1)[:, None], box, padding=(kh - 1, kw - 1))[:, 0]
    return _as_convolution(layer, kernel.unflatten(0, layer.weight.shape[:2]), stride=(kh, kw))
