"""The device of a command."""

import torch

from gan.runtime.errors import UserError


def select_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`. Raises UserError when it is not available."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("--device cuda: PyTorch finds no CUDA device; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and available else "cpu")
