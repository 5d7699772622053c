"""The device of a command."""

import torch

from gan.runtime.errors import UserError


def check_device(name: str) -> None:
    """Raise UserError when the device `auto`, `cpu` or `cuda` is not available."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device; use --device cpu or auto")


def select_device(name: str, required: bool = True) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`, on which convolutions then compute in fp32, not in TensorFloat-32.

    Raises UserError when the device is not available, or returns the CPU if it is not `required`.
    """
    if required:
        check_device(name)
    torch.backends.cudnn.allow_tf32 = False  # `train.precision=tf32` allows it in training steps
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
