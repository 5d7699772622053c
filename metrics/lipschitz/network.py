"""Lipschitz estimates of a whole network, observed at points."""

import torch
from torch import Tensor, nn

from metrics.lipschitz.measuring import measuring


def input_gradient_norms(network: nn.Module, x: Tensor, y: Tensor | None = None) -> Tensor:
    """Return ||∇ₓ D(x)|| at each of the inputs (B, ...), as (B,); D gives one logit (B,) an input.

    Measured in evaluation mode, without a trace in the network. The largest is a lower bound of the Lipschitz
    constant of D on the region that the points sample.
    """
    x = x.detach().requires_grad_(True)
    with measuring(network), torch.enable_grad():
        logits = network(x) if y is None else network(x, y)
        (gradient,) = torch.autograd.grad(logits.sum(), x)
    return gradient.flatten(1).norm(dim=1)
