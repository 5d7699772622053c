"""How networks are called: with labels only if there are any, and for one logit per image."""

from typing import Any

from torch import Tensor, nn


def call_network(network: nn.Module, x: Tensor, y: Tensor | None) -> Any:
    """Return network(x, y), or network(x) if y is None, so that an unconditional network needs no argument for y."""
    return network(x) if y is None else network(x, y)


def get_logits(D: nn.Module, x: Tensor, y: Tensor | None = None) -> Tensor:
    """Return the logits of a discriminator for x (B, ...) and its labels (B,), as (B,).

    D returns (B,) or (B, 1). Raises ValueError for anything else: other shapes would be summed or broadcast silently.
    """
    logits = call_network(D, x, y)
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape not in ((len(x),), (len(x), 1)):
        raise ValueError(
            f"a discriminator needs one logit per input, logits of shape {(len(x),)}, but the shape is {shape}"
        )
    return logits.flatten()
