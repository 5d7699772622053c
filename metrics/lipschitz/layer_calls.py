"""How the layers of a network are called: each as a map of one tensor."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metrics.lipschitz.eval_mode import eval_mode, measurable
from models.kernels import plain_kernels

INTEGERS = "called with integers"
"""The reason why a table of embeddings, for example, is not measured"""


class CalledLayer(nn.Module):
    """A layer as a map of the one floating-point tensor of a call; all other arguments are constants.

    Args:
        layer: The layer.
        args: Positional arguments of the call, without the tensor.
        kwargs: Arguments by keyword, without the tensor.
        places: Where the tensor belongs: positions in `args`, in ascending order, and keywords.
    """

    def __init__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], places: list[int | str]):
        super().__init__()
        self.layer, self.args, self.kwargs, self.places = layer, args, kwargs, places

    def forward(self, x: Tensor) -> Any:
        """Call the layer for a batch x (B, ...)."""

        def constant(value: Any) -> Any:  # a constant tensor belongs to one example
            return value.expand(len(x), *value.shape[1:]) if isinstance(value, Tensor) and value.dim() > 0 else value

        args = [constant(value) for value in self.args]
        kwargs = {name: constant(value) for name, value in self.kwargs.items()}
        for place in self.places:
            if isinstance(place, int):
                args.insert(place, x)
            else:
                kwargs[place] = x
        return self.layer(*args, **kwargs)


def record_calls(
    model: nn.Module, layers: Mapping[str, nn.Module], example_inputs: tuple[Any, ...]
) -> tuple[dict[str, tuple[nn.Module, torch.Size]], dict[str, str]]:
    """Return each layer as a map of one tensor with the shape of its input, and why other layers are no such map.

    Both are by path. Shapes have no batch dimension. A layer that is called several times is recorded at its largest
    input. The model runs once for the example inputs, in evaluation mode.
    """
    found: dict[str, tuple[nn.Module, torch.Size]] = {}
    reasons = dict.fromkeys(layers, "never called")
    called = {path: layer for path, layer in layers.items() if not isinstance(layer, torch.jit.ScriptModule)}
    reasons |= dict.fromkeys(layers.keys() - called.keys(), "a ScriptModule, which accepts no hooks")

    def record(path: str):
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = _as_map(module, args, kwargs)
            if isinstance(call, str):
                reasons[path] = call
            elif path not in found or call[1].numel() > found[path][1].numel():
                found[path] = call

        return hook

    handles = [layer.register_forward_pre_hook(record(path), with_kwargs=True) for path, layer in called.items()]
    try:  # with plain kernels, so that a convolution after upsampling gets the upsampled map
        with eval_mode(model), plain_kernels(), torch.no_grad():
            model(*(measurable(value) if isinstance(value, Tensor) else value for value in example_inputs))
    finally:
        for handle in handles:
            handle.remove()
    calls = {path: found[path] for path in layers if path in found}
    return calls, {path: reason for path, reason in reasons.items() if path not in found}


def _as_map(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[nn.Module, torch.Size] | str:
    """Return the layer as a map of one tensor and the shape of its input without batch, or why it is none."""
    arguments: dict[int | str, Any] = {**dict(enumerate(args)), **kwargs}
    tensors = {place: value for place, value in arguments.items() if isinstance(value, Tensor)}
    inputs = {place: value for place, value in tensors.items() if value.is_floating_point()}
    if not tensors:
        return "called without a tensor"
    if not inputs:
        return INTEGERS
    x = next(iter(inputs.values()))
    if any(value is not x for value in inputs.values()):
        return "called with several tensors"
    if x.dim() == 0 or len(x) == 0:
        return "called without a batch dimension"
    if tuple(arguments) == (0,):
        return layer, x.shape[1:]

    def constant(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() == 0:
            return value
        return (value[:1] if len(value) == len(x) else value).detach().clone()

    others = tuple(constant(value) for place, value in enumerate(args) if place not in inputs)
    named = {name: constant(value) for name, value in kwargs.items() if name not in inputs}
    return CalledLayer(layer, others, named, list(inputs)), x.shape[1:]
