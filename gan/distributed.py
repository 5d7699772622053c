"""Several processes that work on one run, as `torchrun` starts them; everything here also works for one alone."""

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def rank() -> int:
    """Return the number of this process, from 0 on."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def from_first(value: T) -> T:
    """Return on every process the first one's value (a small object)."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def gather_rows(local: Tensor, rows: list[Tensor], total: int) -> Tensor:
    """Return on every process the whole (total, ...) of which each holds some rows.

    `rows[r]` are the numbers of the rows in process r's `local`, (len(rows[r]), ...).
    """
    if world_size() == 1:
        return local
    longest = max(len(index) for index in rows)
    padded = local.new_zeros(longest, *local.shape[1:])
    padded[: len(local)] = local
    gathered = [torch.empty_like(padded) for _ in rows]
    dist.all_gather(gathered, padded)
    whole = local.new_empty(total, *local.shape[1:])
    for index, part in zip(rows, gathered, strict=True):
        whole[index.to(whole.device)] = part[: len(index)]
    return whole
