"""Batches of training images as a function of the seed and the position in the stream."""

from typing import Any

import torch
from torch import Tensor

from gan.data.base import ImageData, to_float
from gan.data.stream import Stream
from gan.runtime import rng
from gan.runtime.distributed import local_shard

GIGABYTE = 1e9


class Order:
    """The endless stream of image numbers, 0..count-1 or `rows` (count,): each epoch once over all of them, in an order
    of its own.
    """

    def __init__(self, count: int, seed: int, device: torch.device, rows: Tensor | None = None):
        self._count, self._seed, self._device, self._rows = count, seed, device, rows
        self._epochs: dict[int, Tensor] = {}

    def indices(self, position: int, size: int) -> Tensor:
        """Return this process's share of the `size` numbers from `position` on, (B,) int64 on the device."""
        parts = []
        while size > 0:
            epoch, start = divmod(position, self._count)
            parts.append(self._epoch(epoch)[start : start + size])
            position, size = position + len(parts[-1]), size - len(parts[-1])
        return local_shard(torch.cat(parts))

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            # Drawn on the CPU, so that every device sees the same order.
            order = torch.randperm(self._count, generator=rng.generator("cpu", self._seed, "epoch", epoch))
            order = order if self._rows is None else self._rows[order]
            # Two epochs are kept: batches are prepared for the next one while the present one is not over.
            self._epochs = dict([*self._epochs.items()][-1:]) | {epoch: order.to(self._device)}
        return self._epochs[epoch]


class Sampler:
    """Training images, drawn without replacement within an epoch, each epoch in a new order.

    `batch(position, size)` is a function of the seed and the position in the endless stream alone. Images of up to
    `device_budget_gb` lie on the device (on the CPU: where they are); more stay where they are, and `workers` threads
    gather the next batches while the device computes. The batches are the same. With `rows` (n,) only the images of
    these numbers are drawn. Of several processes each gets its own share of a batch.
    """

    def __init__(
        self,
        data: ImageData,
        seed: int,
        device: torch.device,
        horizontal_flip: bool = False,
        dequantize: bool = False,
        device_budget_gb: float = float("inf"),
        workers: int = 2,
        rows: Tensor | None = None,
    ):
        self.horizontal_flip = horizontal_flip
        self.dequantize = dequantize
        self.seed = seed
        self.device = device
        fits = data.images.nbytes <= device_budget_gb * GIGABYTE
        self.images = data.images.to(device) if fits else data.images
        self.labels = data.labels.to(device) if fits else data.labels
        self._order = Order(len(data) if rows is None else len(rows), seed, self.images.device, rows)
        self._stream: Stream | None = None
        if not fits:
            pin = device.type == "cuda"
            self._stream = Stream(data.images, data.labels, self._order.indices, workers, pin)

    @property
    def streams(self) -> bool:
        """Whether the images are too large for the device."""
        return self._stream is not None

    def batch(self, position: int, size: int) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) in [-1, 1] and labels (B,) of the `size` in the stream from `position` on.

        B is `size`, or this process's share of it.
        """
        if self._stream is None:
            index = self._order.indices(position, size)
            images, y = self.images[index], self.labels[index]
        else:
            host = self._stream.batch(position, size)
            images, y = (part.to(self.device, non_blocking=True) for part in host)
        x = to_float(images)
        random = rng.generator(x.device, self.seed, "batch", position)
        if self.horizontal_flip:
            mirrored = local_shard(torch.rand(size, generator=random, device=x.device)) < 0.5
            x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        if self.dequantize:
            x = x + local_shard(torch.rand(size, *x.shape[1:], generator=random, device=x.device)) / 127.5
        return x, y

    def close(self) -> None:
        """End the threads, if there are any; a sampler that is forgotten ends them too."""
        if self._stream is not None:
            self._stream.close()


def build_image_sampler(config: Any, data: ImageData, rows: Tensor | None, device: torch.device) -> Sampler:
    """Return the sampler of these images, or of some rows of them, with the seed and data options of a config."""
    return Sampler(
        data,
        config.seed,
        device,
        horizontal_flip=config.data.horizontal_flip,
        dequantize=config.data.dequantize,
        device_budget_gb=config.data.device_budget_gb,
        workers=config.data.workers,
        rows=rows,
    )
