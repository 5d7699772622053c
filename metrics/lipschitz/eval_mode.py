"""Evaluation mode and enough precision for the duration of a measurement."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import overload

import torch
from torch import Tensor, nn


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode inside the context, so that no normalization updates its state.

    The computation has at least single precision: parameters and buffers of 16 bits are replaced by copies in single
    precision, autocast is off, and so is TF32, whose 10-bit mantissa is too coarse for norms. Gradients can be computed
    even inside `torch.inference_mode`. Everything is restored afterwards. Inputs need to be `measurable`.
    """
    tensors = [*network.parameters(), *network.buffers()]
    modes = [(module, module.training) for module in network.modules()]
    precision = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    narrow = [(tensor, tensor.data) for tensor in tensors if is_narrow(tensor)]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for device_type in {"cpu", *(tensor.device.type for tensor in tensors)}:
            if torch.amp.is_autocast_available(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        try:
            network.eval()
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
            for tensor, data in narrow:
                tensor.data = data.float()  # the tensor stays the same object, which other modules may share
            yield
        finally:
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = precision
            for tensor, data in narrow:
                tensor.data = data
            for module, mode in modes:
                module.training = mode


@overload
def measurable(x: Tensor) -> Tensor: ...
@overload
def measurable(x: None) -> None: ...
def measurable(x: Tensor | None) -> Tensor | None:
    """Return an input for a network inside `eval_mode`: with at least single precision, and known to autograd."""
    if x is None:
        return None
    if is_narrow(x):
        return x.float()
    return x.clone() if x.is_inference() else x  # autograd accepts no tensor that was made in inference mode


def is_narrow(tensor: Tensor) -> bool:
    """Return whether a floating-point tensor has less than single precision."""
    return tensor.is_floating_point() and tensor.itemsize < 4
