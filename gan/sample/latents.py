"""Latents of samples, and of the ways between them."""

from collections.abc import Iterator

import torch
from torch import Tensor

from gan.training.generator_file import TrainedGenerator
from gan.training.inputs import draw_latents

STEPS = 8  # images in an interpolation, including both ends
STEPS_TO_NEXT = 24  # frames of a walk from one latent to the next


def draw(
    count: int, generator: TrainedGenerator, random: torch.Generator, truncation: float | None, label: int | None
) -> tuple[Tensor, Tensor | None]:
    """Return z (count, z_dim) and labels (count,), or None without classes.

    Entries of z outside [-truncation, truncation] are drawn again (Brock et al., 2019). A `label` is that of all.
    """
    z, y = draw_latents(count, generator.config.generator.z_dim, generator.labels, random)
    if truncation is not None:
        while (outside := z.abs() > truncation).any():
            z[outside] = torch.randn(int(outside.sum()), generator=random, device=z.device)
    if y is not None and label is not None:
        y = torch.full_like(y, label)
    return z, y


def slerp(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Interpolate between latents along the great circle (White, 2016).

    The norms are interpolated too, so that every latent has a typical norm of N(0, I).

    Args:
        start: Latents (n, z_dim).
        end: Latents (n, z_dim).
        t: Fractions (T,) of the way from `start` to `end`.

    Returns:
        Latents (n, T, z_dim).
    """
    start, end, t = start[:, None], end[:, None], t[None, :, None]
    norms = torch.lerp(start.norm(dim=2, keepdim=True), end.norm(dim=2, keepdim=True), t)
    a, b = (torch.nn.functional.normalize(point, dim=2) for point in (start, end))
    angle = torch.arccos((a * b).sum(dim=2, keepdim=True).clamp(-1, 1))
    weights = torch.sin((1 - t) * angle), torch.sin(t * angle)
    return norms * torch.nn.functional.normalize(weights[0] * a + weights[1] * b, dim=2)


def interpolate(z: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Interpolate between pairs of latents, see `slerp`. Each row has the label of its first latent.

    Args:
        z: Latents (2 n, z_dim). Rows 0 and 1 are the first pair, rows 2 and 3 the second.
        y: Labels (2 n,), or None.

    Returns:
        Latents (n STEPS, z_dim) and labels (n STEPS,) or None: STEPS consecutive ones for each pair.
    """
    path = slerp(z[0::2], z[1::2], torch.linspace(0, 1, STEPS, device=z.device))
    return path.flatten(0, 1), None if y is None else y[0::2].repeat_interleave(STEPS)


def walk(z: Tensor) -> Iterator[Tensor]:
    """Yield the latents (n, z_dim) of each frame of a closed walk through z (K, n, z_dim), see `slerp`."""
    t = torch.arange(STEPS_TO_NEXT, device=z.device) / STEPS_TO_NEXT
    for start, end in zip(z, z.roll(-1, dims=0), strict=True):
        yield from slerp(start, end, t).unbind(dim=1)
