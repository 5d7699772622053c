"""Functions that `torch.compile` leaves out of its graphs."""

from collections.abc import Callable
from typing import TypeVar, cast

from torch._compile import _disable_dynamo

Function = TypeVar("Function", bound=Callable)


def eager(function: Function) -> Function:
    """Exclude a function from compiled graphs, as `torch.compiler.disable` does.

    This form, which PyTorch uses for its own functions, imports the compiler at the first call instead of here: that
    takes seconds.
    """
    return cast(Function, _disable_dynamo(function))
