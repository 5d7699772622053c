"""Batches gathered from host memory, or from a file mapped into it, ahead of their use."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

BATCHES_AHEAD = 2  # for each worker


class Stream:
    """Gathers batches of images (N, C, H, W) and labels (N,) in threads before they are asked for.

    The batch (position, size) has the images that `indices` names. After it those at position + size, position + 2
    size, ... are expected. A batch that was not expected is gathered while the caller waits; the expectations follow
    when the one after it is asked for too, so that a single look elsewhere does not disturb them. With `pin` batches
    lie in page-locked memory, from where they are copied to a CUDA device without waiting.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, indices: Callable[[int, int], Tensor], workers: int, pin: bool = False
    ):
        self._images, self._labels = images, labels
        self._indices = indices  # called in the caller's thread alone
        self._pin = pin
        self._ahead = BATCHES_AHEAD * workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
        self._expected: dict[tuple[int, int], Future[tuple[Tensor, Tensor]]] = {}
        self._after_jump: tuple[int, int] | None = None

    def batch(self, position: int, size: int) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) uint8 and labels (B,) in host memory: those that `indices` names."""
        future = self._expected.pop((position, size), None)
        if future is not None:
            batch = future.result
        else:
            batch = partial(_gather, self._images, self._labels, self._indices(position, size), self._pin)
        goes_on = future is not None or not self._expected or (position, size) == self._after_jump
        if goes_on:
            self._expect([(position + k * size, size) for k in range(1, self._ahead + 1)])
        else:
            self._after_jump = (position + size, size)
        return batch()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._expected.clear()

    def _expect(self, keys: list[tuple[int, int]]) -> None:
        for key in self._expected.keys() - set(keys):
            self._expected.pop(key).cancel()
        for key in keys:
            if key not in self._expected:
                index = self._indices(*key)
                self._expected[key] = self._pool.submit(_gather, self._images, self._labels, index, self._pin)


def _gather(images: Tensor, labels: Tensor, index: Tensor, pin: bool) -> tuple[Tensor, Tensor]:
    parts = []
    for source in (images, labels):
        out = torch.empty((len(index), *source.shape[1:]), dtype=source.dtype, pin_memory=pin)
        # NumPy copies in this thread alone, where torch would start threads of its own; "clip" writes without a buffer.
        np.take(source.numpy(), index.numpy(), axis=0, out=out.numpy(), mode="clip")
        parts.append(out)
    return parts[0], parts[1]
