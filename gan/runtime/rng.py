"""Random numbers as a function of (seed, purpose, step), so that a resumed run draws the same numbers."""

import hashlib
import os

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for a purpose, for example `derive_seed(seed, "noise", step)`."""
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(device: torch.device | str, seed: int, *purpose: str | int) -> torch.Generator:
    """Return a random generator on `device` for a purpose."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *purpose))


def set_deterministic(enabled: bool) -> None:
    """Use only deterministic algorithms in PyTorch (slower), or the fastest ones.

    On CUDA this must be called before the first computation. Operations without a deterministic algorithm then raise
    RuntimeError.
    """
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is initialized
    torch.use_deterministic_algorithms(enabled)
    torch.backends.cudnn.deterministic = enabled
    torch.backends.cudnn.benchmark = not enabled  # measures the algorithms for each shape, once
