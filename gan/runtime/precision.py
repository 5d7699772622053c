"""The number format of training: autocast, TensorFloat-32 and loss scaling."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Precision = Literal["fp32", "tf32", "bf16", "fp16"]


@contextmanager
def training_precision(precision: Precision) -> Iterator[None]:
    """Allow TensorFloat-32 in the convolutions of CUDA inside the context, forward and backward, for `tf32` only.

    PyTorch allows it by default, so that results that are called fp32 have the precision of 10 bits.
    """
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context of forward passes: autocast to 16 bits for `bf16` and `fp16`."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision in ("bf16", "fp16"))


def build_loss_scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    """Return the loss scaling of an optimizer, which does nothing except for `fp16`.

    Small gradients would be rounded to zero in fp16. A step whose scaled gradients overflow is skipped.
    """
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
