"""The job of several processes that torchrun launches, as its variables describe it.

This module does not import PyTorch, which takes seconds, before a job needs it.
"""

import os
from datetime import timedelta
from typing import Any


def is_launched() -> bool:
    """Return whether torchrun launched this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launched_world_size() -> int:
    """Return the number of processes that torchrun launched, whether they form a process group or not."""
    return int(os.environ["WORLD_SIZE"]) if is_launched() else 1


def claim_first_failure() -> bool:
    """Return True in the first process of the job that fails. Only that process reports its error."""
    try:
        store = get_agent_store()
        return store is None or store.add(f"failures of attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", 1) == 1
    except RuntimeError:
        return True


def leave_note(name: str, text: str) -> None:
    """Keep a text for later attempts of this job: torchrun starts all processes again after a failure, if it may.

    Without torchrun, this does nothing.
    """
    if (store := get_agent_store()) is not None:
        store.set(f"note: {name}", text)


def read_note(name: str) -> str | None:
    """Return the text that an earlier attempt of this job left with `leave_note`, or None."""
    # TORCHELASTIC_RESTART_COUNT does not tell whether there was one: it only counts failures on this machine.
    store, key = get_agent_store(), f"note: {name}"
    return store.get(key).decode() if store is not None and store.check([key]) else None


def get_agent_store() -> Any:
    """Return the store of torchrun itself, or None. It exists before the process group, and outlives restarts."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    import torch.distributed as dist

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    wait = timedelta(seconds=10)
    return dist.TCPStore(address, port, is_master=False, timeout=wait)  # pyright: ignore[reportPrivateImportUsage]
