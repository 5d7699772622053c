"""Adversarial attacks within an l_inf ball: each pixel changes by at most eps, and images stay in [0, 1].

The attacks maximize the cross-entropy of the network in its current mode; callers put it into evaluation mode.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fgsm(network: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Return images (B, C, H, W) after one step of size eps along the gradient's sign (Goodfellow et al., 2015)."""
    return pgd(network, x, y, eps, eps, 1, x)


def pgd(network: nn.Module, x: Tensor, y: Tensor, eps: float, step: float, iterations: int, start: Tensor) -> Tensor:
    """Return images (B, C, H, W) after projected gradient ascent from `start` (Madry et al., ICLR 2018).

    Each iteration moves by `step` along the sign of the gradient, and projects onto the ball around x and onto [0, 1].
    """
    attacked = start.detach()
    for _ in range(iterations):
        attacked.requires_grad_(True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(F.cross_entropy(network(attacked), y, reduction="sum"), attacked)
        attacked = attacked.detach() + step * gradient.sign()
        attacked = torch.clamp(attacked, x - eps, x + eps).clamp(0, 1)
    return attacked


def random_start(x: Tensor, eps: float, random: torch.Generator) -> Tensor:
    """Return images drawn uniformly from the ball around x (B, C, H, W), clipped to [0, 1]."""
    noise = torch.rand(x.shape, generator=random, device=x.device, dtype=x.dtype)
    return (x + eps * (2 * noise - 1)).clamp(0, 1)
