"""Base class of activation norms: frozen dataclasses of options that build torch modules."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.registry import Registry

ACTIVATION_NORMS: Registry["ActivationNorm"] = Registry("activation norm")


@dataclass(frozen=True, kw_only=True)
class ActivationNorm(ABC):
    """Base class of all activation norms. The fields of a subclass are its YAML options.

    Every norm also has a class-conditional form, with a learned scale and shift per class and channel instead of per
    channel. A class-conditional generator can thus use any activation norm.
    """

    registry: ClassVar[Registry["ActivationNorm"]] = ACTIVATION_NORMS

    @abstractmethod
    def build(self, channels: int, num_classes: int | None = None) -> nn.Module:
        """Return a module that maps x (B, channels, H, W) and labels y (B,) or None to a tensor shaped like x.

        With `num_classes` the module is class-conditional and requires y. Otherwise it ignores y.
        """

    def build_without_affine(self, channels: int) -> nn.Module:
        """Return the norm without learned scale and shift, for a network that computes them.

        Raises ValueError if the class-conditional form has no such norm in it.
        """
        conditional = self.build(channels, num_classes=1)
        if not isinstance(conditional, ClassConditional):
            raise ValueError(
                f"{type(self).__name__} has no form without scale and shift; choose another activation norm"
            )
        return conditional.norm


class ClassConditional(nn.Module):
    """gamma_y * norm(x) + beta_y (Dumoulin et al., ICLR 2017; de Vries et al., NeurIPS 2017).

    `norm` is a norm without learned scale and shift. gamma is initialized to 1 and beta to 0. They are parameters
    instead of an `nn.Embedding`, because weight normalizations apply to embeddings but must not change gamma and beta.
    """

    def __init__(self, norm: nn.Module, channels: int, num_classes: int):
        super().__init__()
        self.norm = norm
        self.weight = nn.Parameter(torch.ones(num_classes, channels))
        self.bias = nn.Parameter(torch.zeros(num_classes, channels))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Normalize x (B, C, H, W), then scale and shift it by the parameters of the classes y (B,)."""
        gamma, beta = (F.embedding(y, table)[:, :, None, None].to(x.dtype) for table in (self.weight, self.bias))
        return gamma * self.norm(x) + beta

    def extra_repr(self) -> str:
        """Return the number of classes for `repr`."""
        return f"num_classes={len(self.weight)}"
