"""Functions that compiled graphs call and do not look into."""

from collections.abc import Callable
from typing import TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable)


def eager(function: Function) -> Function:
    """Keep a function out of compiled graphs; torch's own decorator, which loses the function's type."""
    return cast(Function, torch.compiler.disable(function))
