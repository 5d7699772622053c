"""Batches that threads copy from host memory, or from a memory-mapped file, before they are requested."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

BATCHES_AHEAD = 2  # per worker


class Stream:
    """Gathers batches of images (N, C, H, W) and labels (N,) in threads before they are requested.

    The batch (position, size) consists of the images that `indices(position, size)` returns. After a request for it,
    the batches at position + size, position + 2 * size, ... are gathered in advance. If a request was not expected, its
    batch is gathered while the caller waits. The stream moves to the new position only if the next request continues
    from there, so that a single request for another batch does not discard what was prepared. With `pin_memory`
    the batches are in page-locked memory, which allows asynchronous copies to a CUDA device.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, indices: Callable[[int, int], Tensor], workers: int, pin_memory: bool
    ):
        self._images, self._labels = images, labels
        self._indices = indices  # called in the caller's thread only
        self._pin_memory = pin_memory
        self._ahead = BATCHES_AHEAD * workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
        self._expected: dict[tuple[int, int], Future[tuple[Tensor, Tensor]]] = {}
        self._after_jump: tuple[int, int] | None = None

    def batch(self, position: int, size: int) -> tuple[Tensor, Tensor]:
        """Return the images (B, C, H, W) uint8 and labels (B,) of a batch, in host memory."""
        future = self._expected.pop((position, size), None)
        if future is not None:
            get_batch = future.result
        else:
            index = self._indices(position, size)
            get_batch = partial(gather, self._images, self._labels, index, self._pin_memory)
        continues = future is not None or not self._expected or (position, size) == self._after_jump
        if continues:
            self._expect([(position + k * size, size) for k in range(1, self._ahead + 1)])
        else:
            self._after_jump = (position + size, size)
        return get_batch()

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._expected.clear()

    def _expect(self, keys: list[tuple[int, int]]) -> None:
        for key in self._expected.keys() - set(keys):
            self._expected.pop(key).cancel()
        for key in keys:
            if key not in self._expected:
                index = self._indices(*key)
                self._expected[key] = self._pool.submit(gather, self._images, self._labels, index, self._pin_memory)


def gather(images: Tensor, labels: Tensor, index: Tensor, pin_memory: bool) -> tuple[Tensor, Tensor]:
    """Return copies of the images and labels at `index` (B,)."""
    parts = []
    for source in (images, labels):
        out = torch.empty((len(index), *source.shape[1:]), dtype=source.dtype, pin_memory=pin_memory)
        # NumPy copies in this thread; PyTorch would start threads of its own. mode="clip" writes without a buffer.
        np.take(source.numpy(), index.numpy(), axis=0, out=out.numpy(), mode="clip")
        parts.append(out)
    return parts[0], parts[1]
