"""What a normalized layer is made of: a parametrization of its weight, or a wrapper around it."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, fx, nn

from models.kernels import switch


class Parametrization(nn.Module):
    """Base class of the parametrizations of a weight, for `torch.nn.utils.parametrize`.

    They are computed without autocast, which would round singular values, and so the norm of the weight, to 16 bits.
    PyTorch calls `right_inverse(weight)` when the parametrization is registered and when a weight is assigned to the
    layer. A parametrization with state, such as singular vectors, computes it there.
    """

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Return the weight, given the tensors from which it is computed."""
        with switch.without_autocast(tensors[0].device):
            return super().__call__(*tensors)

    def right_inverse(self, weight: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the tensors to store for a new weight. Raises NotImplementedError where there is no inverse."""
        raise NotImplementedError(
            f"{type(self).__name__} cannot find the tensor whose normalized weight is a given one; assign to"
            " layer.parametrizations.weight.original instead of layer.weight"
        )


class Wrapper(nn.Module, ABC):
    """Base class of modules that normalize a layer or a network from outside.

    The Lipschitz measurements treat the wrapper of a layer as one layer (`models.protocols.CompositeLayer`).
    """

    is_layer = True

    @property
    @abstractmethod
    def wrapped(self) -> nn.Module:
        """The layer or network that is normalized."""

    def trace(self, *arguments: Any) -> fx.Proxy:
        """Record a call of this module as a node of the graph that `torch.fx` traces, as for PyTorch's own layers."""
        tracer = next(argument.tracer for argument in arguments if isinstance(argument, fx.Proxy))
        if not isinstance(tracer, fx.Tracer) or tracer.root is self:
            raise TypeError(f"torch.fx traces a network that contains {type(self).__name__}, but not the layer alone")
        return tracer.create_proxy("call_module", tracer.path_of_module(self), arguments, {})
