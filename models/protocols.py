"""Protocols by which a module tells the Lipschitz measurements and the training loop about itself."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class LipschitzBounded(Protocol):
    """A module that computes an upper bound of its own Lipschitz constant (l2).

    The bound is that of the first argument of `forward`, for all values of the others. It is used if no class derived
    from the one that defines it defines another `forward`. A derived class whose `forward` it describes as well needs
    the line `lipschitz_bound = Base.lipschitz_bound`.
    """

    def lipschitz_bound(self, input_shape: Sequence[int]) -> float:
        """Return the bound in evaluation mode, `math.inf` if none is known.

        `input_shape` is (C, H, W), without batch dimension.
        """
        ...


@runtime_checkable
class CompositeLayer(Protocol):
    """A module with submodules that is measured as one layer if `is_layer` is true, such as a wrapper of a layer."""

    is_layer: bool


def is_composite_layer(module: nn.Module) -> bool:
    """Return whether `module` declares that it is measured as one layer."""
    return isinstance(module, CompositeLayer) and module.is_layer


@runtime_checkable
class ConvolutionWrapper(Protocol):
    """A module that computes a convolution with other weights than those that a convolution in it stores.

    In evaluation mode, it commutes with shifts of its input by the stride, apart from padding. Its singular values are
    then known from its responses to impulses.
    """

    def get_convolution(self) -> nn.Module:
        """Return the convolution whose stride, groups and kernel size the module has."""
        ...


@runtime_checkable
class Varying(Protocol):
    """A module that runs other operations in some calls of training than in others, if `varies_between_calls` is true.

    A CUDA graph, which repeats the operations of one call, cannot replace it.
    """

    varies_between_calls: bool


def varies_between_calls(module: nn.Module) -> bool:
    """Return whether `module` declares that its operations differ between calls."""
    return isinstance(module, Varying) and module.varies_between_calls
