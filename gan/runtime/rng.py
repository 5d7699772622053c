"""Random numbers as a function of (seed, purpose, step): a resumed run draws what an uninterrupted one draws."""

import hashlib
import os

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for `purpose`, such as `derive_seed(seed, "noise", step)`."""
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(device: torch.device | str, seed: int, *purpose: str | int) -> torch.Generator:
    """Return a random generator on `device` for `purpose`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *purpose))


def be_deterministic(wanted: bool) -> None:
    """Let PyTorch choose only algorithms that give the same bits each time, in all that follows; or what is fastest.

    On CUDA it must come before the first computation. An operation that has no such algorithm raises RuntimeError.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it once, when it starts
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.deterministic = wanted
