"""Batches that threads copy from host memory, or from a memory-mapped file, to the device before they are requested."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BATCHES_AHEAD = 2  # per worker


class _Batch(NamedTuple):
    images: Tensor
    labels: Tensor
    copied: torch.cuda.Event | None
    """Recorded after the copies to a CUDA device"""


class Stream:
    """Gathers batches of images (N, C, H, W) and labels (N,) in threads before they are requested.

    The batch (position, size) consists of the images that `indices(position, size)` returns. After a request for it,
    the batches at position + size, position + 2 * size, ... are gathered in advance. If a request was not expected, its
    batch is gathered while the caller waits. The stream moves to the new position only if the next request continues
    from there, so that a single request for another batch does not discard what was prepared. A CUDA device copies the
    batches on a CUDA stream of their own, while it computes.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Callable[[int, int], Tensor],
        workers: int,
        device: torch.device,
    ):
        self._images, self._labels = images, labels
        self._indices = indices  # called in the caller's thread only
        self._device = device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ahead = BATCHES_AHEAD * workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
        self._expected: dict[tuple[int, int], Future[_Batch]] = {}
        self._after_jump: tuple[int, int] | None = None

    def batch(self, position: int, size: int) -> tuple[Tensor, Tensor]:
        """Return the images (B, C, H, W) uint8 and labels (B,) of a batch, on the device."""
        future = self._expected.pop((position, size), None)
        if future is not None:
            get_batch = future.result
        else:
            get_batch = partial(self._prepare, self._indices(position, size))
        continues = future is not None or not self._expected or (position, size) == self._after_jump
        if continues:
            self._expect([(position + k * size, size) for k in range(1, self._ahead + 1)])
        else:
            self._after_jump = (position + size, size)
        batch = get_batch()
        if batch.copied is not None:
            consumer = torch.cuda.current_stream(self._device)
            consumer.wait_event(batch.copied)
            for part in (batch.images, batch.labels):
                part.record_stream(consumer)  # their memory is not reused before the consumer has read them
        return batch.images, batch.labels

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._expected.clear()

    def _expect(self, keys: list[tuple[int, int]]) -> None:
        for key in self._expected.keys() - set(keys):
            self._expected.pop(key).cancel()
        for key in keys:
            if key not in self._expected:
                self._expected[key] = self._pool.submit(self._prepare, self._indices(*key))

    def _prepare(self, index: Tensor) -> _Batch:
        images, labels = gather(self._images, self._labels, index, self._copies is not None)
        if self._copies is None:
            return _Batch(images, labels, None)
        with torch.cuda.stream(self._copies):
            images, labels = (part.to(self._device, non_blocking=True) for part in (images, labels))
            copied = torch.cuda.Event()
            copied.record(self._copies)
            return _Batch(images, labels, copied)


def gather(images: Tensor, labels: Tensor, index: Tensor, pin_memory: bool) -> tuple[Tensor, Tensor]:
    """Return copies of the images and labels at `index` (B,), in page-locked memory if `pin_memory`."""
    parts = []
    for source in (images, labels):
        out = torch.empty((len(index), *source.shape[1:]), dtype=source.dtype, pin_memory=pin_memory)
        # NumPy copies in this thread; PyTorch would start threads of its own. mode="clip" writes without a buffer.
        np.take(source.numpy(), index.numpy(), axis=0, out=out.numpy(), mode="clip")
        parts.append(out)
    return parts[0], parts[1]
