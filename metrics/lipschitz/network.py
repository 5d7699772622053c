"""Lower bounds of a network's Lipschitz constant, observed at given points."""

import math

import torch
from torch import Tensor, nn

from metrics.lipschitz.eval_mode import eval_mode, measurable
from models.calls import call_network, get_logits
from models.kernels.switch import launches_matter

JACOBIAN_BATCH = 128
"""Images that a GPU computes at once for the Jacobian of a generator"""


def input_gradient_norms(network: nn.Module, x: Tensor, y: Tensor | None = None) -> Tensor:
    """Return ||∇ₓ D(x)|| for each of the inputs x (B, ...), as (B,), where D returns one logit per input.

    The network is in evaluation mode and is not changed. The largest norm is a lower bound of the Lipschitz constant
    of D. Raises ValueError if D does not return (B,) or (B, 1).
    """
    with eval_mode(network):
        return _input_gradients(network, x, y).flatten(1).norm(dim=1)


def steepest_slope(network: nn.Module, x: Tensor, y: Tensor | None = None, steps: int = 20) -> float:
    """Return the largest slope |D(x) - D(x')| / ||x - x'|| found by gradient ascent over pairs (x, x').

    x starts at the given inputs (B, ...), and x' starts a small step along the gradient away from x. Both move by
    normalized gradient steps of decreasing length that increase the slope. The result is a lower bound of the Lipschitz
    constant, and at least the largest gradient norm at the given inputs. The network is in evaluation mode; the search
    is deterministic. Raises ValueError if D does not return one logit per input, (B,) or (B, 1).
    """
    with eval_mode(network):
        x, y = measurable(x), measurable(y)
        gradients = _input_gradients(network, x, y)
        scale = x.flatten(1).norm(dim=1).mean().clamp(min=1e-3)
        near, far = x.detach(), x.detach() + 0.01 * scale * _unit(gradients)
        best = gradients.flatten(1).norm(dim=1)
        for step in range(steps + 1):
            ends = torch.cat([near, far]).requires_grad_(True)
            labels = None if y is None else torch.cat([y, y])
            with torch.enable_grad():
                a, b = get_logits(network, ends, labels).chunk(2)
                first, second = ends.chunk(2)
                slope = (a - b).abs() / (first - second).flatten(1).norm(dim=1).clamp(min=1e-3 * scale)
                (gradient,) = torch.autograd.grad(slope.sum(), ends)
            best = torch.maximum(best, slope.detach())
            length = 0.1 * scale * (1 - step / (steps + 1))
            near, far = (ends.detach() + length * _unit(gradient)).chunk(2)
        return best.max().item()


def jacobian_singular_values(network: nn.Module, z: Tensor, y: Tensor | None = None) -> Tensor:
    """Return the singular values of ∂G(z)/∂z at each latent (B, d), as (B, d), largest first.

    The Jacobian is computed column by column, since z has far fewer entries than an image: the vector-Jacobian product
    is linear in its vector, and its own vector-Jacobian product is a column. On a GPU, the latents are repeated to
    compute several columns at once. The network is in evaluation mode. The values are NaN for a diverged network. They
    are on the CPU, where small eigenproblems are solved.
    """
    repeats = min(z.shape[1], max(1, JACOBIAN_BATCH // len(z))) if launches_matter(z) else 1
    with eval_mode(network), torch.enable_grad():
        z, y = measurable(z), measurable(y)
        z = z.detach().repeat_interleave(repeats, 0).requires_grad_(True)
        output = call_network(network, z, None if y is None else y.repeat_interleave(repeats, 0)).flatten(1)
        cotangent = torch.zeros_like(output).requires_grad_(True)
        (pullback,) = torch.autograd.grad(output, z, cotangent, create_graph=True)  # Jᵀ c, linear in c
        pullback = pullback.unflatten(0, (-1, repeats))  # (B, repeats, d)
        columns = []
        for i in range(0, z.shape[1], repeats):
            # The gradient of (Jᵀ c)_i with respect to c is the i-th column of J. The repeats give the next columns.
            entries = pullback[:, :, i : i + repeats].diagonal(dim1=1, dim2=2)
            (gradient,) = torch.autograd.grad(entries.sum(), cotangent, retain_graph=True)
            columns.append(gradient.unflatten(0, (-1, repeats))[:, : entries.shape[1]])
        jacobian = torch.cat(columns, dim=1).mT.contiguous().double()  # (B, C H W, d)
    gram = (jacobian.mT @ jacobian).cpu()
    if not gram.isfinite().all():
        return torch.full(gram.shape[:2], math.nan)
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(1)


def _input_gradients(network: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
    x = measurable(x).detach().requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(get_logits(network, x, measurable(y)).sum(), x)
    return gradient


def _unit(x: Tensor) -> Tensor:
    return x / x.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, *[1] * (x.dim() - 1))
