"""Single precision, whatever the user has allowed for the training step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def single_precision(device: torch.device) -> Iterator[None]:
    """Context manager that disables TF32, reduced-precision matrix multiplications and autocast."""
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution
