"""A call of an operator, as the rules of `metrics.lipschitz.operators` see it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from metrics.lipschitz.values import LONGEST_CHAIN, Choice, LinearMap, Value


class UncoveredError(Exception):
    """A call that a rule does not cover."""


@dataclass(eq=False)
class Call:
    """A call of an operator, whose arguments are constants, and `Value` and `Choice` in place of fake tensors."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Any]
    """The fake tensors that it returned"""
    label: str

    def __post_init__(self):
        schema = self.function._schema.arguments
        given = dict(zip((argument.name for argument in schema), self.args, strict=False)) | self.kwargs
        self.arguments = {argument.name: given.get(argument.name, argument.default_value) for argument in schema}
        self.values = [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Value)]
        self.name = str(self.function.overloadpacket).removeprefix("aten.")

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def x(self) -> Value:
        """The first argument, if it is the only one that depends on x; otherwise it raises UncoveredError."""
        first = next(iter(self.arguments.values()))
        if self.values != [first]:
            raise UncoveredError("only the first argument may depend on x")
        return first

    @property
    def shape(self) -> torch.Size:
        """The shape of the first output."""
        return self.outputs[0].shape

    def value(self, compute: Callable[[], float], index: int = 0, **form: Any) -> Value:
        """Return the output `index` as a Value with the bound that `compute` returns."""
        output = self.outputs[index]
        return Value(output.shape, output.device, compute, self.label, self.values, **form)

    def repeated(self, value: Value) -> float:
        """Return the bound of an operand that is broadcast, that is repeated, to the shape of the output."""
        return value.bound * math.sqrt(max(1.0, self.shape.numel() / max(1, value.shape.numel())))

    def linear_map(self, index: int, combined: bool) -> LinearMap:
        """Return the call as a map to its output, plus a constant.

        It maps the common root of its values if `combined`, else its only value.
        """
        keywords = {name: value for name, value in self.kwargs.items() if name != "dtype"}

        def apply(root: Tensor) -> Tensor:
            def substitute(leaf: Any) -> Any:
                if isinstance(leaf, Value):
                    return leaf.apply(root) if combined else root
                if isinstance(leaf, Choice):
                    return root.new_zeros(leaf.shape)
                return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

            args, kwargs = tree_map(substitute, (self.args, keywords))
            if self.name == "_to_copy":
                return args[0]
            if self.name in ("view", "_unsafe_view"):  # the layout of the root may differ from that of its fake tensor
                return args[0].reshape(self["size"])
            return tree_leaves(self.function(*args, **kwargs))[index]

        return apply

    def linear_form(self, index: int) -> dict[str, Any]:
        """Return the output as a linear map of the root of the values, if they have one in common."""
        roots = {id(value.root or value): value.root or value for value in self.values}
        chain = 1 + max(value.chain for value in self.values)
        if len(roots) == 1 and chain <= LONGEST_CHAIN:
            return {"root": next(iter(roots.values())), "apply": self.linear_map(index, True), "chain": chain}
        if len(self.values) == 1:
            return {"root": self.values[0], "apply": self.linear_map(index, False), "chain": 1}
        return {}
