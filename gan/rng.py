"""Random numbers as a function of (seed, purpose, step): a resumed run draws what an uninterrupted one draws."""

import hashlib

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for `purpose`, such as `derive_seed(seed, "noise", step)`."""
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(device: torch.device | str, seed: int, *purpose: str | int) -> torch.Generator:
    """Return a random generator on `device` for `purpose`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *purpose))
