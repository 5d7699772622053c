"""Which modules may be bounded by what they say of themselves, without a look at their operations."""

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from models.overrides import find_override
from models.protocols import LipschitzBounded


def is_trusted(module: nn.Module) -> bool:
    """Return whether `module` computes its own bound, and the bound is one of its own forward pass.

    The class that defines `lipschitz_bound` must be the one that defines `forward`, or be derived from it. No module
    inside may have a hook or be a layer of PyTorch with another forward pass: the bound may read only its weight.
    """
    if not isinstance(module, LipschitzBounded):
        return False
    classes = type(module).__mro__
    forward, bound = (
        next((i for i, c in enumerate(classes) if name in vars(c)), len(classes))
        for name in ("forward", "lipschitz_bound")
    )
    replaced = "forward" in vars(module) and "lipschitz_bound" not in vars(module)
    # Whoever reads a reparametrized weight reads what its parametrizations compute, hooks included.
    parametrizations = (part for part in module.modules() if isinstance(part, ParametrizationList))
    skipped = {module, *(inner for outer in parametrizations for inner in outer.modules())}
    inside = (part for part in module.modules() if part not in skipped)
    return bound <= forward and not replaced and not any(map(_is_changed, inside))


def _is_changed(module: nn.Module) -> bool:
    """Return whether a hook, a replaced forward pass or a subclass changes what `module` computes."""
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return True
    own = type(module).__module__.startswith("models.")  # this package's layers extend PyTorch's by labels, for example
    layer = any(c.__module__.startswith("torch.nn.modules.") and c is not nn.Module for c in type(module).__mro__)
    return layer and not own and find_override(module) is not None
