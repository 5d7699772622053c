"""Functions that `torch.compile` leaves out of its graphs."""

from collections.abc import Callable
from typing import TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable)


def eager(function: Function) -> Function:
    """Exclude a function from compiled graphs: `torch.compiler.disable`, which would lose the function's type."""
    return cast(Function, torch.compiler.disable(function))
