"""CUDA graphs of a function that reads and writes tensors at fixed addresses, and is called again and again."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

R = TypeVar("R")  # results: tensors in any container

WARMUP_CALLS = 3
"""Calls on a side stream before a capture, in which libraries are initialized and kernels chosen"""


class CaptureError(Exception):
    """A function cannot be captured as a CUDA graph. The message is PyTorch's reason."""


class CUDAGraphs:
    """Runs a function by a CUDA graph, with one graph for each sequence of kernels that it launches.

    The first calls with a key run eagerly. The next one is captured, and it and all later ones replay the capture. What
    differs between calls must be in tensors that are changed in place, or in the `generators`, seeded before each call.
    The function may set the gradients of `parameters`: after each call they are those of this call.
    """

    def __init__(self, generators: Sequence[torch.Generator], parameters: Sequence[nn.Parameter]):
        self._generators, self._parameters = generators, parameters
        self._calls: dict[Hashable, int] = {}
        self._captured: dict[Hashable, _Captured] = {}
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()  # one for all graphs: they never run at the same time

    def run(self, key: Hashable, function: Callable[[], R]) -> R:
        """Run `function`, or what was captured of it under the same key, and return its results.

        The tensors of the results are overwritten by the next call with the same key. Raises CaptureError if the
        function does what a CUDA graph cannot, such as waiting for the device.
        """
        calls = self._calls[key] = self._calls.get(key, 0) + 1
        if calls <= WARMUP_CALLS:
            return self._run_on_side_stream(function)
        if key not in self._captured:
            self._captured[key] = self._capture(function)
        return self._captured[key].replay(self._parameters)

    def clear(self) -> None:
        """Discard all graphs, because a tensor that they use was replaced."""
        self._calls.clear()
        self._captured.clear()
        self._pool = torch.cuda.graph_pool_handle()  # PyTorch captures into no pool whose graphs are all gone

    def _run_on_side_stream(self, function: Callable[[], R]) -> R:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            results = function()
        torch.cuda.current_stream().wait_stream(self._stream)
        return results

    def _capture(self, function: Callable[[], Any]) -> "_Captured":
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        try:
            # In this mode, threads that prepare the next images may allocate pinned memory meanwhile.
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                results = function()
        except RuntimeError as error:
            raise CaptureError(str(error).partition("\n")[0]) from error
        return _Captured(graph, results, [parameter.grad for parameter in self._parameters])


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    results: Any
    gradients: list[Tensor | None]

    def replay(self, parameters: Sequence[nn.Parameter]) -> Any:
        self.graph.replay()
        for parameter, gradient in zip(parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.results
