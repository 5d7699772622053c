"""Loads the states in checkpoints, and checks them before: another version may have written them."""

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan.data.contents import refuse_changed_images
from gan.runtime.errors import is_out_of_memory

MAX_LENGTH = 200  # of a message of PyTorch, in characters


def load_state(experiment: Any, run: Path, state: Mapping[str, Any]) -> None:
    """Restore a state of a run that the experiment accepts. Raises UserError if the run began with other images."""
    refuse_changed_images(run, state.get("data"), experiment.contents, experiment.config.data.allow_changes)
    experiment.load_state_dict(state)


def check_counts(state: Mapping[str, Any], *names: str) -> None:
    """Raise ValueError unless the state has a whole number that is not negative under each name."""
    for name in names:
        value = get_entry(state, name)
        if type(value) is not int or value < 0:
            raise ValueError(f"its {name} is not a whole number: {_shorten(repr(value))}")


def get_entry(state: Mapping[str, Any], name: str) -> Any:
    """Return an entry of a state. Raises ValueError if it is missing."""
    if name not in state:
        raise ValueError(f"its entry {name} is missing")
    return state[name]


def check_contents(state: Mapping[str, Any]) -> None:
    """Raise ValueError if the entry of a state that identifies its images, which may be missing, is no mapping."""
    if not isinstance(state.get("data", {}), dict):
        raise ValueError("its entry data does not fit: not the images by name")


def check_module(name: str, module: nn.Module, state: Mapping[str, Any]) -> None:
    """Raise ValueError unless `module` can load the entry `name` of a state. The module is not changed."""
    try:
        # Only the module's own code knows which states it can load, such as those with a buffer of another shape.
        _copy_to_cpu(module).load_state_dict(get_entry(state, name))
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        # The first line of PyTorch's message says that there are errors, and the others which.
        line = [*str(error).splitlines(), type(error).__name__][1 if "\n" in str(error) else 0]
        raise ValueError(f"its entry {name} does not fit: {_shorten(line.strip())}") from None


def check_optimizer(name: str, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Raise ValueError unless `optimizer` can continue with the entry `name` of a state. It is not changed.

    PyTorch itself would notice this in the next step, or never.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    entry = get_entry(state, name)
    saved = entry.get("state") if isinstance(entry, dict) else None
    if not isinstance(saved, dict) or not saved.keys() <= set(range(len(parameters))):
        raise ValueError(f"its entry {name} does not fit: not the state of {len(parameters)} parameters")
    expected = _take_step(optimizer, parameters[0])
    if not saved and state.get("step") and _get_names(expected):  # single parameters may never have had a gradient
        raise ValueError(f"its entry {name} does not fit: no state of any parameter")
    for index, values in saved.items():
        if not isinstance(values, dict) or _get_names(values) != _get_names(expected):
            raise ValueError(f"its entry {name} does not fit: not the state of {type(optimizer).__name__}")
        for key in _get_names(expected):
            value = values[key]
            shape = parameters[index].shape if expected[key].dim() else expected[key].shape
            if not isinstance(value, Tensor) or value.shape != shape or value.layout != torch.strided:
                raise ValueError(f"its entry {name} does not fit: {key} of parameter {index} has another shape")
            if not value.is_floating_point() or (key == "step" and not value >= 0):
                raise ValueError(f"its entry {name} does not fit: {key} of parameter {index} has other values")


def check_options(name: str, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Raise ValueError unless `optimizer` can also load its options from the entry `name` of a state."""
    trial = copy.deepcopy(optimizer)  # which knows the options that other versions of PyTorch did not have
    try:
        trial.load_state_dict(get_entry(state, name))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"its entry {name} does not fit: other groups of parameters") from None
    for group, loaded in zip(optimizer.param_groups, trial.param_groups, strict=True):
        if missing := group.keys() - loaded.keys():
            raise ValueError(f"its entry {name} does not fit: no {', '.join(sorted(missing))}")


def check_tensors(name: str, expected: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Raise ValueError unless the entry `name` of a state has tensors like the `expected` ones of the same names.

    They must have the same shapes and types, and finite values. Warns of names that only one of both has: which tensors
    there are may depend on the device. They must have a name in common.
    """
    entry = get_entry(state, name)
    common = entry.keys() & expected.keys() if isinstance(entry, dict) else set()
    if not isinstance(entry, dict) or (entry and expected and not common):
        raise ValueError(f"its entry {name} does not fit: not the tensors {_shorten(', '.join(expected))}")
    for key in common:
        value, tensor = entry[key], expected[key]
        if not isinstance(value, Tensor) or (value.shape, value.dtype, value.layout) != (
            tensor.shape,
            tensor.dtype,
            tensor.layout,
        ):
            raise ValueError(f"its entry {name} does not fit: {key} has another shape or type")
        if not value.isfinite().all():
            raise ValueError(f"its entry {name} does not fit: {key} is not finite")
    others = {"missing": expected.keys() - common, "not used": entry.keys() - common}
    if lists := [f"{', '.join(sorted(map(str, keys)))} ({reason})" for reason, keys in others.items() if keys]:
        lines = _shorten("; ".join(lists))
        warnings.warn(f"{name} in the checkpoint has other tensors: {lines}; continuing with the others", stacklevel=2)


def check_numbers(name: str, expected: Mapping[str, float], state: Mapping[str, Any]) -> None:
    """Raise ValueError unless the entry `name` of a state has a number under each of the `expected` names."""
    entry = get_entry(state, name)
    if not isinstance(entry, dict) or not all(type(entry.get(key)) in (int, float) for key in expected):
        raise ValueError(f"its entry {name} does not fit: not the numbers {', '.join(expected)}")


def _copy_to_cpu(module: nn.Module) -> nn.Module:
    """Return a copy that needs no memory of the device of a module, which may have no space for a second one."""
    copies: dict[int, Any] = {id(t): t.detach().to("cpu", copy=True) for t in module.buffers()}
    for parameter in module.parameters():
        copies[id(parameter)] = nn.Parameter(parameter.detach().to("cpu", copy=True), parameter.requires_grad)
    return copy.deepcopy(module, copies)


def _take_step(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Return what an optimizer keeps for a parameter of shape (1,) like `parameter` after a step."""
    probe = nn.Parameter(parameter.detach().new_zeros(1))
    probe.grad = torch.zeros_like(probe)
    trial = type(optimizer)([probe], **optimizer.defaults)
    trial.step()
    return trial.state[probe]


def _get_names(values: Mapping[str, Any]) -> set[str]:
    return {name for name, value in values.items() if value is not None}


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]} ..."
