"""The device of a command."""

import torch

from gan.runtime.errors import UserError


def select_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`, on which convolutions then compute in fp32, not in TensorFloat-32.

    Raises UserError when the device is not available.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("--device cuda: PyTorch finds no CUDA device; use --device cpu or auto")
    torch.backends.cudnn.allow_tf32 = False  # `train.precision=tf32` allows it in training steps
    return torch.device("cuda" if name != "cpu" and available else "cpu")
