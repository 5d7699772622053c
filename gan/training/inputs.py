"""The random inputs of training: real images and latents, as functions of the seed and the step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gan.data import Sampler
from gan.runtime import rng
from gan.runtime.distributed import local_shard

ROLLBACK_OFFSET = 2**48  # in the stream of real images: after a rollback they come in another order


@dataclass
class Inputs:
    """Draws real images and latents. Every draw is a function of its arguments and the seed.

    So a resumed run draws what an uninterrupted run draws. The draws of training also depend on `rollbacks`, so that a
    retry after a divergence draws something else.
    """

    sampler: Sampler
    z_dim: int
    num_classes: int | None
    seed: int
    device: torch.device
    channels_last: bool
    rollbacks: int = 0
    """Number of times that training has diverged and was rolled back"""

    def real_images(self, position: int, count: int) -> tuple[Tensor, Tensor | None]:
        """Return the local shard of `count` real images (B, C, H, W) of the stream from `position` on.

        The labels (B,) are None for an unconditional GAN.
        """
        x, y = self.sampler.batch(position + self.rollbacks * ROLLBACK_OFFSET, count)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return x, None if self.num_classes is None else y

    def latents(self, count: int, *purpose: str | int) -> tuple[Tensor, Tensor | None]:
        """Return z (count, z_dim) and labels (count,) or None for evaluation; they do not depend on `rollbacks`."""
        random = rng.generator(self.device, self.seed, "latents", *purpose)
        return draw_latents(count, self.z_dim, self.num_classes, random)

    def training_latents(self, count: int, *purpose: str | int) -> tuple[Tensor, Tensor | None]:
        """Return the local shard of `count` latents and labels for training."""
        z, y = draw_latents(count, self.z_dim, self.num_classes, self.generator("latents", *purpose))
        return local_shard(z), None if y is None else local_shard(y)

    def generator(self, *purpose: str | int) -> torch.Generator:
        """Return a random generator on the device for a purpose of training."""
        seed = rng.derive_seed(self.seed, "retry", self.rollbacks) if self.rollbacks else self.seed
        return rng.generator(self.device, seed, *purpose)


def draw_latents(
    count: int, z_dim: int, num_classes: int | None, random: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Return z (count, z_dim) ~ N(0, I) and uniform labels (count,), or None without classes."""
    z = torch.randn(count, z_dim, generator=random, device=random.device)
    if num_classes is None:
        return z, None
    return z, torch.randint(num_classes, (count,), generator=random, device=random.device)


def concatenate_labels(*parts: Tensor | None) -> Tensor | None:
    """Return the labels (B,) of several batches as one batch; None without labels."""
    labels = [part for part in parts if part is not None]
    return torch.cat(labels) if labels else None
