"""The device that a command computes on."""

import torch

from gan.runtime.errors import UserError


def select_device(name: str) -> torch.device:
    """Return the device called auto, cpu or cuda; UserError when there is no such device."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("--device cuda: PyTorch sees no CUDA device here; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and available else "cpu")
