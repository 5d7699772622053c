"""Adaptive discriminator augmentation (ADA: Karras et al., NeurIPS 2020).

The transformations are those of the pipe `bgc`, the default of the authors' code: training/augment.py of
github.com/NVlabs/stylegan2-ada-pytorch, commit d72cc7d. The tests contain its numbers. The random numbers are drawn in
its order. Two things are written differently, with the same result:

- Their code measures how far the transformed images reach beyond the edges, and reflects the image as far as necessary,
  at most once. Here the image is always reflected once: the size of a tensor that depends on random numbers cannot be
  captured in a CUDA graph. The padding, and the wavelet filters before and after the resampling, are one matrix for
  each axis. Above 128 x 128, the padded images, 36 times as large, need much memory.
- Bilinear resampling gathers pixels, so that it is differentiable any number of times, as R1 needs, and deterministic.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from gan.options.schedules import Schedule, Scheduled, get_value
from gan.runtime.distributed import all_reduce_mean, draw_shard
from gan.runtime.precision import autocast
from models.ranges import AT_LEAST_1, Range

SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466),
    *(0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578),
    *(0.0017677118642428036, -0.007800708325034148),
)
"""Low-pass filter of the symlet with 6 vanishing moments (Daubechies 1992): its shifts by 2 are orthonormal"""


@dataclass(frozen=True, kw_only=True)
class AdaConfig:
    """How the augmentation `ada` of `train.augment` chooses its probability p."""

    p: Annotated[Scheduled, Range(min=0, max=1)] = 0.0
    """Probability of each transformation at the start"""
    target: Annotated[float, Range(min=-1, max=1)] | None = 0.6
    """p rises while the mean sign of D's logits of real images is above this, and falls below it (null: constant p)"""
    kimg: Annotated[float, Range(min=1e-3)] = 500.0
    """Real images, in thousands, in which p can rise from 0 to 1"""
    every: Annotated[int, AT_LEAST_1] = 4
    """D updates between changes of p"""
    color: Annotated[float, Range(min=0, max=1)] = 1.0
    """Probability of each transformation of the colors, as a multiple of p"""
    cutout: Annotated[float, Range(min=0, max=1)] = 0.0
    """Probability that a square of half the side length is set to zero, as a multiple of p"""

    def __post_init__(self):
        """Raise ValueError if p follows both a schedule and D's logits."""
        if isinstance(self.p, Schedule) and self.target is not None:
            raise ValueError("p has a schedule, so that it cannot follow D's logits; set target: null")


class AdaptiveAugmentation(nn.Module):
    """Random transformations of images, each of which is applied with probability p; p follows D's logits.

    All state is in buffers, which are changed in place.

    Args:
        options: how p is chosen.
        channels: channels of the images: 1 or 3. ValueError for others, which have no colors.
        size: height and width of the images.
        batch_size: real images in an update of D, in all processes.
    """

    p: Tensor
    signs: Tensor
    updates: Tensor
    up: Tensor
    down: Tensor
    identity: Tensor
    gray: Tensor
    cross: Tensor

    def __init__(self, options: AdaConfig, channels: int, size: int, batch_size: int):
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"ada changes colors, which images of {channels} channels do not have; leave it out")
        self.options, self.size, self.channels, self.batch_size = options, size, channels, batch_size
        self.register_buffer("p", torch.tensor(get_value(options.p, 0, 1)))
        self.register_buffer("signs", torch.zeros(()))  # sum of the mean signs since the last change of p
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        up, down = build_resampling(size)
        axis = torch.full((3,), 3**-0.5)  # of the gray colors
        constants = {"up": up, "down": down, "identity": torch.eye(3), "gray": axis.outer(axis)}
        constants["cross"] = torch.linalg.cross(axis.expand(3, 3), torch.eye(3)).T.contiguous()  # x -> axis × x
        for name, constant in constants.items():
            self.register_buffer(name, constant, persistent=False)

    @torch.no_grad()
    def observe(self, logits_real: Tensor) -> None:
        """Take the logits (B,) of real images of an update of D into account: p changes after every few updates."""
        options = self.options
        if options.target is None:
            return
        sign = logits_real.float().sign().mean()
        all_reduce_mean([sign])
        self.signs += sign
        self.updates += 1
        due = self.updates % options.every == 0
        step = self.batch_size * options.every / (1000 * options.kimg)
        change = step * (self.signs / options.every - options.target).sign()
        self.p.copy_(torch.where(due, (self.p + change).clamp(min=0), self.p))
        self.signs *= ~due

    def forward(self, x: Tensor, random: torch.Generator) -> Tensor:
        """Return images (B, C, H, W), this process's shard of a batch, after random transformations."""
        with autocast(x.device, "fp32"):
            draw = Draw(len(x), self.p, random)
            return self._cut_out(self._recolor(self._transform(x, draw), draw), draw)

    def _transform(self, x: Tensor, draw: "Draw") -> Tensor:
        """Return images after a random affine map of the plane, resampled at twice the size."""
        inverse = self.draw_inverse(draw)
        # The same map for the pixels of the doubled size, whose origin is half a pixel off the center.
        half, double = torch.full_like(inverse[:, 0, :2], 0.5), torch.full_like(inverse[:, 0, 0], 2.0)
        inverse = _translate(-half) @ _scale(double, double) @ inverse
        inverse = inverse @ _scale(1 / double, 1 / double) @ _translate(half)
        padded, count = self.up @ x @ self.up.T, self.down.shape[1]
        steps = torch.arange(count, device=x.device) - (count - 1) / 2
        x_out, y_out = torch.meshgrid(steps, steps, indexing="xy")
        points = torch.stack([x_out, y_out, torch.ones_like(x_out)]).flatten(1)
        cols, rows, _ = (inverse @ points + (padded.shape[3] - 1) / 2).unbind(dim=1)
        sampled = sample_bilinear(padded, rows, cols).unflatten(2, (count, count))
        return self.down @ sampled @ self.down.T

    def draw_inverse(self, draw: "Draw") -> Tensor:
        """Return maps (B, 3, 3) from pixels (x, y, 1) of the result to those of the image, both from the center."""
        flip = draw.either((2 * draw.uniform()).floor(), 0.0)
        inverse = _scale(1 - 2 * flip, torch.ones_like(flip))
        inverse = inverse @ _rotate(math.pi / 2 * draw.either((4 * draw.uniform()).floor(), 0.0))
        inverse = inverse @ _translate(-(self.size * draw.either((2 * draw.uniform(2) - 1) * 0.125, 0.0)).round())

        factor = draw.either((0.2 * draw.normal()).exp2(), 1.0)
        inverse = inverse @ _scale(1 / factor, 1 / factor)
        once = 1 - (1 - self.p).clamp(0, 1).sqrt()  # so that at least one of two rotations has the probability p
        inverse = inverse @ _rotate(draw.either((2 * draw.uniform() - 1) * math.pi, 0.0, once))
        factor = draw.either((0.2 * draw.normal()).exp2(), 1.0)
        inverse = inverse @ _scale(1 / factor, factor)
        inverse = inverse @ _rotate(draw.either((2 * draw.uniform() - 1) * math.pi, 0.0, once))
        return inverse @ _translate(-self.size * draw.either(0.125 * draw.normal(2), 0.0))

    def _recolor(self, x: Tensor, draw: "Draw") -> Tensor:
        """Return images after a random affine map of their colors."""
        p = self.options.color * self.p
        brightness = draw.either(0.2 * draw.normal(), 0.0, p)[:, None, None]
        contrast = draw.either((0.5 * draw.normal()).exp2(), 1.0, p)[:, None, None]
        luma_flip = draw.either((2 * draw.uniform()).floor(), 0.0, p)[:, None, None]
        color = contrast * (self.identity - 2 * luma_flip * self.gray)  # (B, 3, 3)
        if self.channels == 3:
            hue = draw.either((2 * draw.uniform() - 1) * math.pi, 0.0, p)[:, None, None]
            color = (self.gray + hue.cos() * (self.identity - self.gray) + hue.sin() * self.cross) @ color
            saturation = draw.either(draw.normal().exp2(), 1.0, p)[:, None, None]
            color = (self.gray + saturation * (self.identity - self.gray)) @ color
            return (color @ (x.flatten(2) + brightness)).view_as(x)
        return color.sum(dim=(1, 2))[:, None, None, None] / 3 * (x + brightness[..., None])

    def _cut_out(self, x: Tensor, draw: "Draw") -> Tensor:
        """Return images after a square around a random point was set to zero in some of them."""
        if self.options.cutout == 0:
            return x
        is_cut = draw.uniform() < self.options.cutout * self.p
        centers = (torch.arange(self.size, device=x.device) + 0.5) / self.size  # of the pixels
        cols, rows = ((centers - position[:, None]).abs() < 0.25 for position in draw.uniform(2).unbind(dim=1))
        return x.masked_fill((rows[:, :, None] & cols[:, None] & is_cut[:, None, None])[:, None], 0.0)


class Draw:
    """Random numbers of the images of a shard."""

    def __init__(self, count: int, p: Tensor, random: torch.Generator):
        self.count, self.p, self.random = count, p, random

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers (B, ...) from U(0, 1)."""
        return draw_shard(torch.rand, (self.count, *shape), self.random)

    def normal(self, *shape: int) -> Tensor:
        """Return numbers (B, ...) from N(0, 1)."""
        return draw_shard(torch.randn, (self.count, *shape), self.random)

    def either(self, values: Tensor, neutral: float, p: Tensor | None = None) -> Tensor:
        """Return the values (B, ...) of an image with probability `p`, by default that of all transformations."""
        is_applied = self.uniform() < (self.p if p is None else p)
        return torch.where(is_applied.view(-1, *[1] * (values.dim() - 1)), values, neutral)


def _scale(x: Tensor, y: Tensor) -> Tensor:
    """Return matrices (B, 3, 3) that scale by x (B,) and y (B,)."""
    return torch.stack([x, y, torch.ones_like(x)], dim=1).diag_embed()


def _rotate(angle: Tensor) -> Tensor:
    """Return matrices (B, 3, 3) that rotate by angles (B,)."""
    sin, cos, zero, one = angle.sin(), angle.cos(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1).view(-1, 3, 3)


def _translate(shift: Tensor) -> Tensor:
    """Return matrices (B, 3, 3) that translate by shifts (B, 2) along x and y."""
    zero, one = torch.zeros_like(shift[:, 0]), torch.ones_like(shift[:, 0])
    return torch.stack([one, zero, shift[:, 0], zero, one, shift[:, 1], zero, zero, one], dim=1).view(-1, 3, 3)


def build_resampling(size: int) -> tuple[Tensor, Tensor]:
    """Return matrices that resample an axis of an image, (6 size - 4, size) and (size, 2 size + 12).

    The first reflects the axis at both ends, and doubles its resolution. The second halves the resolution of the middle
    of such an axis. Both apply the filter of an orthogonal wavelet, so that the second inverts the first.
    """
    taps = torch.tensor(SYM6, dtype=torch.float64)
    taps = taps / taps.sum()

    def tap(k: Tensor) -> Tensor:
        return torch.where((k >= 0) & (k < len(taps)), taps[k.clamp(0, len(taps) - 1)], 0.0)

    source = torch.arange(1 - size, 2 * size - 1).abs()
    source = torch.where(source < size, source, 2 * (size - 1) - source)
    reflect = torch.eye(size, dtype=torch.float64)[source]
    up = 2 * tap(torch.arange(2 * len(source))[:, None] - 2 * torch.arange(len(source)) + 5) @ reflect
    down = tap(torch.arange(2 * size + 12) - 2 * torch.arange(size)[:, None] - 1)
    return up.float(), down.float()


def sample_bilinear(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Return the values (B, C, N) of images (B, C, H, W) at points (B, N), which are zero outside of the images."""
    height, width = x.shape[2:]
    values = x.flatten(2)
    total = values.new_zeros(())
    for row, row_weight in _neighbors(rows):
        for col, col_weight in _neighbors(cols):
            inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
            index = (row.clamp(0, height - 1) * width + col.clamp(0, width - 1)).long()
            weight = row_weight * col_weight * inside
            total = total + weight[:, None] * values.gather(2, index[:, None].expand(-1, x.shape[1], -1))
    return total


def _neighbors(positions: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the two whole numbers next to each position, and their weights in linear interpolation."""
    below = positions.floor()
    return [(below, below + 1 - positions), (below + 1, positions - below)]
