"""Batches of training images as a function of the seed and the position in an endless stream of images."""

import torch
from torch import Tensor

from gan.data.base import ImageData, SamplerOptions, to_float
from gan.data.stream import Stream
from gan.runtime import rng
from gan.runtime.distributed import draw_shard, local_shard

GIGABYTE = 1e9


class Order:
    """An endless stream of image indices that visits each image once per epoch, in a new random order.

    The indices are 0..count-1, or `rows` (count,) if given.
    """

    def __init__(self, count: int, seed: int, device: torch.device, rows: Tensor | None = None):
        self._count, self._seed, self._device, self._rows = count, seed, device, rows
        self._epochs: dict[int, Tensor] = {}

    def indices(self, position: int, size: int) -> Tensor:
        """Return this process's shard of the `size` indices that start at `position`: (B,) int64 on the device."""
        parts = []
        while size > 0:
            epoch, start = divmod(position, self._count)
            parts.append(self._get_epoch(epoch)[start : start + size])
            position, size = position + len(parts[-1]), size - len(parts[-1])
        return local_shard(torch.cat(parts))

    def _get_epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            # Two epochs are kept, because a stream prepares batches of the next epoch before the current one ends.
            if len(self._epochs) == 2:
                oldest = next(iter(self._epochs))
                del self._epochs[oldest]
            # Drawn on the CPU, so that the order is the same on every device.
            order = torch.randperm(self._count, generator=rng.generator("cpu", self._seed, "epoch", epoch))
            order = order if self._rows is None else self._rows[order]
            self._epochs[epoch] = order.to(self._device)
        return self._epochs[epoch]


class Sampler:
    """Draws batches of training images without replacement, in a new random order in each epoch.

    A batch is a function of the seed and its position only. Images that fit into `options.device_budget_gb` are kept on
    the device. Otherwise they stay in host memory, and threads prepare the next batches while the device computes. The
    batches are the same in both cases. With `rows` (n,) only the images with these indices are drawn. If there are
    several processes, each of them receives its shard of a batch.
    """

    def __init__(
        self, data: ImageData, options: SamplerOptions, seed: int, device: torch.device, rows: Tensor | None = None
    ):
        self.options = options
        self.seed = seed
        self.device = device
        fits = data.images.nbytes <= options.device_budget_gb * GIGABYTE
        self.images = data.images.to(device) if fits else data.images
        self.labels = data.labels.to(device) if fits else data.labels
        self._order = Order(len(data) if rows is None else len(rows), seed, self.images.device, rows)
        self._stream: Stream | None = None
        if not fits:
            self._stream = Stream(data.images, data.labels, self._order.indices, options.workers, device)

    @property
    def streams(self) -> bool:
        """Whether the images are streamed because they do not fit on the device."""
        return self._stream is not None

    def batch(self, position: int, size: int) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) in [-1, 1] and labels (B,) of the `size` images that start at `position`.

        B is `size`, or the size of this process's shard.
        """
        images, y = self.fetch(position, size)
        return self.transform(images, rng.generator(self.device, *self.purpose(position))), y

    def fetch(self, position: int, size: int) -> tuple[Tensor, Tensor]:
        """Return the images (B, C, H, W) uint8 and labels (B,) of a batch, on the device."""
        if self._stream is not None:
            return self._stream.batch(position, size)
        index = self._order.indices(position, size)
        return self.images[index], self.labels[index]

    def transform(self, images: Tensor, random: torch.Generator) -> Tensor:
        """Return images (B, C, H, W) uint8 of a batch as floats in [-1, 1], flipped and dequantized if enabled.

        `random` has the seed of `purpose`, and is on the device of the images.
        """
        x = to_float(images)
        if self.options.horizontal_flip:
            x = torch.where(draw_shard(torch.rand, (len(x), 1, 1, 1), random) < 0.5, x.flip(3), x)
        if self.options.dequantize:
            x = x + draw_shard(torch.rand, x.shape, random) / 128
        return x

    def purpose(self, position: int) -> tuple[int, str, int]:
        """Return the seed and the purpose of the random numbers of the batch at `position`, for `rng.derive_seed`."""
        return self.seed, "batch", position

    def close(self) -> None:
        """Stop the threads, if there are any. This also happens when the sampler is garbage-collected."""
        if self._stream is not None:
            self._stream.close()
