"""The random inputs of training: real images and latents, as functions of the seed and the step."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gan.data import Sampler
from gan.data.labels import LabelDistribution
from gan.runtime import rng
from gan.runtime.distributed import local_shard, shard_part, world_size

ROLLBACK_OFFSET = 2**48  # in the stream of real images: after a rollback they come in another order


@dataclass
class Inputs:
    """Draws real images and latents. Every draw is a function of its arguments and the seed.

    So a resumed run draws what an uninterrupted run draws. The draws of training also depend on `rollbacks`, so that a
    retry after a divergence draws something else.
    """

    sampler: Sampler
    z_dim: int
    labels: LabelDistribution | None
    """Distribution of the labels of generated images; None for an unconditional GAN"""
    seed: int
    device: torch.device
    channels_last: bool
    rollbacks: int = 0
    """Number of times that training has diverged and was rolled back"""

    def real_images(self, position: int, count: int) -> tuple[Tensor, Tensor | None]:
        """Return the local shard of `count` real images (B, C, H, W) of the stream from `position` on.

        The labels (B,) are None for an unconditional GAN.
        """
        x, y = self.sampler.batch(self.stream_position(position), count)
        return self.to_memory_format(x), None if self.labels is None else y

    def stream_position(self, position: int) -> int:
        """Return where the images of a position are in the sampler's stream: after a rollback, elsewhere."""
        return position + self.rollbacks * ROLLBACK_OFFSET

    def to_memory_format(self, x: Tensor) -> Tensor:
        """Return images (B, C, H, W) in the memory format of the networks."""
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    def latents(self, count: int, *purpose: str | int) -> tuple[Tensor, Tensor | None]:
        """Return z (count, z_dim) and labels (count,) or None for evaluation; they do not depend on `rollbacks`."""
        random = rng.generator(self.device, self.seed, "latents", *purpose)
        return draw_latents(count, self.z_dim, self.labels, random)

    def training_latents(self, count: int, *purpose: str | int) -> tuple[Tensor, Tensor | None]:
        """Return the local shard of `count` latents and labels for training."""
        return draw_shard(count, self.z_dim, self.labels, self.generator("latents", *purpose))

    def generator(self, *purpose: str | int) -> torch.Generator:
        """Return a new random generator on the device for a purpose of training."""
        return torch.Generator(self.device).manual_seed(self.derive_seed(*purpose))

    def derive_seed(self, *purpose: str | int) -> int:
        """Return the seed of a purpose of training."""
        seed = rng.derive_seed(self.seed, "retry", self.rollbacks) if self.rollbacks else self.seed
        return rng.derive_seed(seed, *purpose)


class UpdateInputs:
    """The random inputs of one update of G or D: real images and labels, and generators, in one or several parts.

    The buffers of the images and the generators are created once. `load` fills the buffers and seeds the generators for
    an update. All other methods depend on nothing else, so that a CUDA graph can repeat an update with other inputs.

    Args:
        inputs: source of the images and of the seeds.
        network: the network that is updated.
        count: latents of an update, in all processes.
        num_real: real images of an update, in all processes; 0 if the update uses none.
        num_parts: parts into which the local shards of both are divided.
    """

    def __init__(self, inputs: Inputs, network: Literal["G", "D"], count: int, num_real: int, num_parts: int):
        self._inputs, self._network, self._num_real = inputs, network, num_real
        device, shard = inputs.device, num_real // world_size()
        self._images = torch.empty(shard, *inputs.sampler.images.shape[1:], dtype=torch.uint8, device=device)
        self._labels = torch.empty(shard, dtype=torch.int64, device=device)
        buffers = zip(self._images.chunk(num_parts), self._labels.chunk(num_parts), strict=True)
        self.parts = [PartInputs(inputs, count, *views, k, num_parts) for k, views in enumerate(buffers)]

    @property
    def generators(self) -> list[torch.Generator]:
        """All generators of the update."""
        return [generator for part in self.parts for generator in part.generators]

    def load(self, number: int, position: int) -> None:
        """Load the inputs of an update: its number among those of the network, and where its real images start."""
        inputs, network = self._inputs, self._network
        position = inputs.stream_position(position)
        for part in self.parts:  # each draws the numbers of the whole batch
            part.latent.manual_seed(inputs.derive_seed("latents", network, number))
            part.augmentation.manual_seed(inputs.derive_seed("augmentation", network, number))
            part.penalty.manual_seed(inputs.derive_seed("penalty", number))
            if self._num_real > 0:
                part.pixels.manual_seed(rng.derive_seed(*inputs.sampler.purpose(position)))
        if self._num_real > 0:
            for buffer, values in zip(
                (self._images, self._labels), inputs.sampler.fetch(position, self._num_real), strict=True
            ):
                buffer.copy_(values)


class PartInputs:
    """The inputs of one part of an update; see `UpdateInputs`. Use them in the context of `as_shard`."""

    def __init__(self, inputs: Inputs, count: int, images: Tensor, labels: Tensor, index: int, num_parts: int):
        self._inputs, self._count, self._images, self._labels = inputs, count, images, labels
        self._index, self._num_parts = index, num_parts
        self.pixels, self.latent, self.augmentation, self.penalty = (torch.Generator(inputs.device) for _ in range(4))

    @property
    def generators(self) -> tuple[torch.Generator, ...]:
        """All generators of the part."""
        return self.pixels, self.latent, self.augmentation, self.penalty

    def as_shard(self) -> AbstractContextManager[None]:
        """Return a context in which this process's shard of the random numbers of a batch is that of this part."""
        return shard_part(self._index, self._num_parts)

    def real_images(self) -> tuple[Tensor, Tensor | None]:
        """Return the local shard of the real images (B, C, H, W), and their labels (B,), or None without classes."""
        inputs = self._inputs
        x = inputs.to_memory_format(inputs.sampler.transform(self._images, self.pixels))
        return x, None if inputs.labels is None else self._labels

    def latents(self) -> tuple[Tensor, Tensor | None]:
        """Return the local shard of the latents (B, z_dim), and of labels (B,), or None without classes."""
        return draw_shard(self._count, self._inputs.z_dim, self._inputs.labels, self.latent)


@dataclass
class StepInputs:
    """The random inputs of a training step: of each update of D, and of the update of G."""

    discriminator: list[UpdateInputs]
    generator: UpdateInputs

    @property
    def generators(self) -> list[torch.Generator]:
        """All generators of a step."""
        return [generator for update in (*self.discriminator, self.generator) for generator in update.generators]


def draw_latents(
    count: int, z_dim: int, labels: LabelDistribution | None, random: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Return z (count, z_dim) ~ N(0, I) and labels (count,) of a distribution, or None without one."""
    z = torch.randn(count, z_dim, generator=random, device=random.device)
    return z, None if labels is None else labels.draw(count, random)


def draw_shard(
    count: int, z_dim: int, labels: LabelDistribution | None, random: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Return the local shard of what `draw_latents` returns."""
    z, y = draw_latents(count, z_dim, labels, random)
    return local_shard(z), None if y is None else local_shard(y)


def concatenate_labels(*parts: Tensor | None) -> Tensor | None:
    """Return the labels (B,) of several batches as one batch; None without labels."""
    labels = [part for part in parts if part is not None]
    return torch.cat(labels) if labels else None
