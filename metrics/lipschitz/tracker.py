"""The operator norm of every layer of a network, tracked during training."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from operator import call
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from metrics.lipschitz.attempt import attempt, describe
from metrics.lipschitz.eval_mode import eval_mode
from metrics.lipschitz.layer_calls import INTEGERS, record_calls
from metrics.lipschitz.operator_norm import (
    KrylovSpace,
    affine_map,
    is_affine,
    krylov_space,
    largest_singular_values,
    start_vector,
    stays_affine,
)
from models.kernels import plain_kernels
from models.protocols import LipschitzBounded, is_composite_layer

Spaces = dict[str, KrylovSpace]


class LipschitzTracker:
    """Measures the operator norm of each layer of `model`, starting from the singular vectors of the last measurement.

    A layer is a module with parameters of its own (a convolution, a linear layer, a batch norm, a custom layer, also a
    block around other layers), or a `models.protocols.CompositeLayer` (a wrapper such as ConvNorm, whose inner layers
    are not measured separately). How each layer is called is recorded once, with `example_inputs`: the argument of
    `model`, or the tuple of its arguments. A layer that is called several times is measured at its largest input.

    Attributes:
        layers: The measured layers by module path, each as a module that is called with one tensor.
        input_shapes: Shapes of their inputs by path, without batch dimension.
        unmeasured: Layers without an operator norm by path, each with the reason. For example, group norm is not affine
            in evaluation mode, and a bilinear layer has two inputs.
    """

    def __init__(self, model: nn.Module, example_inputs: Tensor | tuple[Any, ...], iterations: int = 10):
        self.model = model
        self.iterations = iterations
        inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs
        layers = _find_layers(model)
        calls, reasons = record_calls(model, layers, inputs)
        self.layers: dict[str, nn.Module] = {}
        self.input_shapes: dict[str, tuple[int, ...]] = {}
        self._vectors: dict[str, Tensor] = {}
        with eval_mode(model), plain_kernels():
            for path, (layer, shape) in calls.items():
                try:
                    vector = start_vector(layer, shape)
                    reason = None if is_affine(layer, vector) else "not affine"
                    if reason is None:
                        krylov_space(*affine_map(layer, vector), vector, 1)  # an error if it is not differentiable
                except Exception as error:  # the code of any layer may run here
                    reason = describe(error)
                if reason is None:
                    self.layers[path], self.input_shapes[path], self._vectors[path] = layer, tuple(shape), vector
                else:
                    reasons[path] = reason
        self.unmeasured = {path: reasons[path] for path in layers if path in reasons}

    def measure(self, run: Callable[[Callable[[], Spaces]], Spaces] = call) -> dict[str, float]:
        """Return the operator norm of each layer by module path. The model is not changed.

        All layers are measured before the host waits for the device. The norm is NaN for a diverged layer; for a layer
        that is no longer affine, such as a residual block whose branch had a factor of 0 at first; and for a layer that
        raises an error, which is reported as a warning.

        `run` calls its argument, which launches the work of the device, and returns the result. It may replay a CUDA
        graph of an earlier call instead: the parameters and the singular vectors are changed in place only.
        """
        norms = dict.fromkeys(self.layers, math.nan)
        with eval_mode(self.model):
            spaces = run(self._launch)
            results = largest_singular_values(list(spaces.values()))
        for path, (norm, vector) in zip(spaces, results, strict=True):
            norms[path] = norm
            self._vectors[path].copy_(vector.view(self.input_shapes[path]))
        return norms

    def product(self, norms: dict[str, float]) -> float:
        """Return the product of the layers' norms. It is an estimate for a chain of layers, not a bound.

        Each factor is a lower bound, and residual branches are multiplied like layers of a chain. A layer counts once,
        however often it is called. A layer inside a measured layer does not count. Nor does a layer of integers, such
        as class labels, because it is constant. The product is NaN if a layer that counts has no norm, and for a model
        that computes its own bound, since it does more than apply its layers.
        """
        unknown = [path for path, reason in self.unmeasured.items() if reason != INTEGERS]
        if isinstance(self.model, LipschitzBounded) or _outermost(unknown, norms):
            return math.nan
        return math.prod(norms[path] for path in _outermost(norms, norms))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the singular vectors by module path."""
        return dict(self._vectors)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the singular vectors of a tracker of the same model.

        A layer that the other tracker did not measure, or at another shape, keeps its own vector.
        """
        for path, vector in self._vectors.items():
            stored = state.get(path)
            if stored is not None and stored.shape == vector.shape:
                vector.copy_(stored)

    def _launch(self) -> Spaces:
        """Return the Krylov space of each layer by path, without those of layers that raise an error."""
        with plain_kernels(), parametrize.cached():  # a layer is applied many times
            spaces = {
                path: attempt(f"the norm of {path}", partial(self._krylov_space, path), None) for path in self.layers
            }
        return {path: space for path, space in spaces.items() if space is not None}

    def _krylov_space(self, path: str) -> KrylovSpace:
        layer, start = self.layers[path], self._vectors[path]
        space = krylov_space(*affine_map(layer, start), start, self.iterations)
        if stays_affine(layer):
            return space
        return space._replace(matrix=torch.where(is_affine(layer, start), space.matrix, math.nan))


def _find_layers(model: nn.Module) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {}
    hidden: list[str] = []  # prefixes of paths
    for path, module in model.named_modules():
        if any(path.startswith(prefix) for prefix in hidden):
            continue
        own = next(module.parameters(recurse=False), None) is not None
        if is_composite_layer(module):
            hidden.append(_prefix(path))
        if parametrize.is_parametrized(module):
            hidden.append(_prefix(path) + "parametrizations")
        if is_composite_layer(module) or parametrize.is_parametrized(module) or own:
            layers[path] = module
    return layers


def _outermost(paths: Iterable[str], norms: Iterable[str]) -> list[str]:
    """Return those of `paths` that are not inside a layer with a norm."""
    return [path for path in paths if not any(path != outer and path.startswith(_prefix(outer)) for outer in norms)]


def _prefix(path: str) -> str:
    """Return the beginning of the paths of all modules inside the module at `path`."""
    return f"{path}." if path else ""
