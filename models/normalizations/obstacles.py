"""Which layers a normalization would change silently, or not at all, and therefore refuses."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from models.kernels.symbol import effective_kernel_size
from models.normalizations.layers import Parametrization, Wrapper
from models.overrides import find_override


def find_normalization(layer: nn.Module) -> str | None:
    """Return how `layer` is already normalized, by this package or by `torch.nn.utils`, or None if it is not."""
    if isinstance(layer, Wrapper):
        return f"it is already normalized, by {type(layer).__name__}"
    if parametrize.is_parametrized(layer, "weight"):
        for part in layer.get_submodule("parametrizations.weight").children():
            known = isinstance(part, Parametrization) or type(part).__module__ == "torch.nn.utils.parametrizations"
            if known:
                return f"its weight is already normalized, by {type(part).__name__.lstrip('_')}"
    for hook in layer._forward_pre_hooks.values():
        if type(hook).__module__ in ("torch.nn.utils.spectral_norm", "torch.nn.utils.weight_norm"):
            return f"its weight is already normalized, by {type(hook).__module__}"
    return None


def find_obstacle_to_parametrization(layer: nn.Module) -> str | None:
    """Return why a parametrized weight would not be the weight that `layer` computes with, or None if it would.

    A forward hook is harmless. A layer with its own forward is accepted if it computes the same with a parametrized
    weight as with a plain one. A forward that masks its weight in place, for example, does not.
    """
    if reason := find_normalization(layer):
        return reason
    parametrized = parametrize.is_parametrized(layer, "weight")
    if not parametrized and "weight" not in layer._parameters and "weight" not in layer._buffers:
        return "its weight is no parameter, but computed by other code"
    if isinstance(layer._parameters.get("weight"), UninitializedParameter):
        return "its weight is not initialized; run a forward pass first"
    if layer._forward_pre_hooks:
        return "it has a forward pre-hook, which may change its weight"
    if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
        return "max_norm changes its weight in place"
    override = find_override(layer)
    if override is None or _computes_with_its_weight(layer):
        return None
    return f"{override}, which does not compute with a parametrized weight as with a plain one"


def find_obstacle_to_wrapping(layer: nn.Module) -> str | None:
    """Return why a wrapper that convolves with `layer.weight` would not compute what `layer` does, or None if it would.

    Such a wrapper never calls the layer, so that its forward must be PyTorch's own, without hooks.
    """
    override = find_override(layer)
    if override is None and (layer._backward_hooks or layer._backward_pre_hooks):
        return "it has a backward hook"
    return override


class _Half(nn.Module):
    """Parametrization 2 W -> W, which is exact in floating point."""

    def forward(self, double: Tensor) -> Tensor:
        return double / 2


@torch.no_grad()
def _computes_with_its_weight(layer: nn.Module) -> bool:
    """Return whether a copy of `layer` computes the same with a parametrized random weight as with a plain one."""
    try:
        plain, parametrized = copy.deepcopy(layer).eval(), copy.deepcopy(layer).eval()
        for module in (plain, parametrized):
            module._forward_hooks.clear()  # they are not called without an input of the user
        weight = plain.get_parameter("weight")
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
        parametrized.get_parameter("weight").copy_(2 * weight)
        parametrize.register_parametrization(parametrized, "weight", _Half())
        x = _example_input(layer).to(weight.device)
        x = x.to(weight.dtype) if x.is_floating_point() else x
        return torch.equal(plain(x), parametrized(x)) and torch.equal(plain(x), parametrized(x))
    except Exception:  # the layer is another's code, which may raise anything
        return False


def _example_input(layer: nn.Module) -> Tensor:
    """Return a small input of `layer`."""
    random = torch.Generator().manual_seed(1)
    if isinstance(layer, _ConvNd):
        size = effective_kernel_size(layer.kernel_size, layer.dilation)
        padding = [0] * len(size) if isinstance(layer.padding, str) else layer.padding
        size = [max(k, 2 * p + 1) + s for k, p, s in zip(size, padding, layer.stride, strict=True)]
        return torch.randn(1, layer.in_channels, *size, generator=random)
    if isinstance(layer, nn.Linear):
        return torch.randn(2, layer.in_features, generator=random)
    if isinstance(layer, nn.Embedding):
        return torch.arange(min(4, layer.num_embeddings))
    raise TypeError(f"no example input for {type(layer).__name__}")
