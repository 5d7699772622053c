"""Whether a module computes what its type says: the forward pass of PyTorch's own layer, and nothing else."""

from torch import nn
from torch.nn.utils import parametrize

from models.kernels import Conv2d

_HARMLESS = {"__init__", "__repr__", "__doc__", "__module__", "__qualname__", "__annotations__", "__dict__",
             "__weakref__", "__firstlineno__", "__static_attributes__", "__parameters__", "__annotate_func__",
             "__annotations_cache__", "__conditional_annotations__", "extra_repr", "reset_parameters"}  # fmt: skip


def find_override(module: nn.Module) -> str | None:
    """Return why `module` may compute something else than PyTorch's layer of its type, or None if it does not.

    Reasons are a subclass or an instance that replaces a method or parameter of PyTorch's class, and forward hooks.
    Old-style `spectral_norm` and `weight_norm` are hooks. A reparametrized layer (`torch.nn.utils.parametrize`) has no
    override. A class outside of `torch.nn` without a base class there has an override, since its own code computes.
    """
    cls = parametrize.type_before_parametrizations(module)
    base = next((c for c in cls.__mro__ if _is_known(c)), nn.Module)
    if base is nn.Module:
        return f"{cls.__name__} is not a layer of torch.nn"
    for derived in cls.__mro__[: cls.__mro__.index(base)]:
        for name in vars(derived):
            if name not in _HARMLESS and (name in ("weight", "bias") or hasattr(base, name)):
                return f"{derived.__name__} has its own {name}"
    for name in vars(module):
        if callable(getattr(base, name, None)):
            return f"its {name} has been replaced"
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has a forward hook"
    return None


def _is_known(cls: type) -> bool:
    return cls is Conv2d or (cls.__module__.startswith("torch.nn.modules.") and cls is not nn.Module)
