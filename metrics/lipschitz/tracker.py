"""The operator norm of every layer of a network, tracked during training."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from metrics.lipschitz.eval_mode import eval_mode
from metrics.lipschitz.operator_norm import (
    affine_map,
    is_affine,
    krylov_space,
    largest_singular_values,
    start_vector,
)
from models.kernels import plain_kernels
from models.protocols import LipschitzBounded, is_composite_layer


class LipschitzTracker:
    """Measures the operator norm of each layer of `model`, starting from the singular vectors of the last measurement.

    A layer is a module with parameters of its own (a convolution, a linear layer, a batch norm, a custom layer), or a
    `models.protocols.CompositeLayer` (a wrapper such as ConvNorm, measured as a whole). The input shape of each layer
    is recorded once, from `example_inputs`: the argument of `model`, or the tuple of its arguments. Layers that are not
    affine in evaluation mode, such as group norm, have no operator norm and are listed in `nonlinear`.
    """

    def __init__(self, model: nn.Module, example_inputs: Tensor | tuple[Any, ...], iterations: int = 10):
        self.model = model
        self.iterations = iterations
        inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs
        shapes = _input_shapes(model, _find_layers(model), inputs)
        vectors = {path: start_vector(model.get_submodule(path), shape) for path, shape in shapes.items()}
        with eval_mode(model), plain_kernels():
            affine = {path for path, vector in vectors.items() if is_affine(model.get_submodule(path), vector)}
        self.nonlinear = [path for path in shapes if path not in affine]
        self.input_shapes = {path: shape for path, shape in shapes.items() if path in affine}
        self._vectors = {path: vectors[path] for path in self.input_shapes}

    def measure(self) -> dict[str, float]:
        """Return the operator norm of each layer by module path. The model is not changed.

        All layers are measured before the host waits for the device.
        """
        with eval_mode(self.model), plain_kernels(), parametrize.cached():  # a layer is applied many times
            spaces = [
                krylov_space(*affine_map(self.model.get_submodule(path), vector), vector, self.iterations)
                for path, vector in self._vectors.items()
            ]
        norms = {}
        for path, (norm, vector) in zip(self._vectors, largest_singular_values(spaces), strict=True):
            norms[path], self._vectors[path] = norm, vector.view(self.input_shapes[path])
        return norms

    def product(self, norms: dict[str, float]) -> float:
        """Return the product of the layers' norms. It is an estimate for a chain of layers, not a bound.

        Each factor is a lower bound, and residual branches are multiplied like layers of a chain. The product is NaN if
        a layer has no norm, and for a model that computes its own bound, since it does more than apply its layers.
        """
        unknown = self.nonlinear or isinstance(self.model, LipschitzBounded)
        return math.nan if unknown else math.prod(norms.values())

    def state_dict(self) -> dict[str, Tensor]:
        """Return the singular vectors by module path."""
        return dict(self._vectors)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the singular vectors of a tracker of the same model."""
        self._vectors = {path: state[path].to(vector) for path, vector in self._vectors.items()}


def _find_layers(model: nn.Module) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        if any(path.startswith(f"{outer}.") for outer in layers):
            continue
        own = next(module.parameters(recurse=False), None) is not None
        if is_composite_layer(module) or parametrize.is_parametrized(module) or own:
            layers[path] = module
    return layers


def _input_shapes(
    model: nn.Module, layers: dict[str, nn.Module], example_inputs: tuple[Any, ...]
) -> dict[str, tuple[int, ...]]:
    """Return the input shape of each layer, without batch dimension. Layers with integer inputs are left out."""
    shapes: dict[str, tuple[int, ...]] = {}

    def record(path: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].is_floating_point():
                shapes[path] = tuple(inputs[0].shape[1:])

        return hook

    handles = [layer.register_forward_pre_hook(record(path)) for path, layer in layers.items()]
    try:  # with plain kernels, so that a convolution after upsampling gets the upsampled map
        with eval_mode(model), plain_kernels(), torch.no_grad():
            model(*example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {path: shapes[path] for path in layers if path in shapes}
