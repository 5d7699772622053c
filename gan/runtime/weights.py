"""Safetensors files with the weights of a network and the metadata that are needed to build the network again."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gan.runtime.errors import UserError, is_out_of_memory
from gan.runtime.files import only_regular, write_atomically

GENERATOR = "generator.safetensors"
"""Name of the file in the run folder of a GAN"""
MAX_HEADER = 100_000_000  # bytes, as in the library
FINGERPRINT = re.compile(r"@([0-9a-f]{16})$")
"""The end of the name of a file of weights, NAME@FINGERPRINT: a hash of the weights"""
_DRAWING = {"normal_", "uniform_", "kaiming_uniform_"}  # the functions of nn.init and the methods of a tensor


def get_fingerprint(name: str) -> str | None:
    """Return the fingerprint in the name of a file of weights, or None if it has none."""
    match = FINGERPRINT.search(name)
    return None if match is None else match[1]


def export_network(path: Path, network: nn.Module, config: str, **metadata: Any) -> None:
    """Write the weights of a network to a safetensors file. Equal networks produce equal files.

    The metadata of the file are the config, as YAML, under `config`, and each value of `metadata` as JSON.
    """
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    texts = {"config": config} | {name: json.dumps(value) for name, value in metadata.items()}
    data = _sort_metadata(save(tensors, metadata=texts))
    write_atomically(path, lambda file: file.write(data))


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file by name, on the CPU, and its metadata.

    Raises UserError if the file cannot be read.
    """
    with _open(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return tensors, file.metadata() or {}


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file without reading its tensors, and without PyTorch.

    Raises UserError if the file cannot be read, or if it is cut.
    """
    try:
        with open(path, "rb", opener=only_regular) as file:
            header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), MAX_HEADER)))
            metadata = header.pop("__metadata__", {})
            length = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
            if file.tell() + length != os.fstat(file.fileno()).st_size:
                raise ValueError("it does not have the size that its header says")
            return metadata | {}
    except (AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        raise _unreadable(path, error) from None


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a safetensors file. Raises UserError if it cannot be opened, or read inside of the context."""
    try:
        with open(path, "rb", opener=only_regular):  # a pipe would block
            pass
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return UserError(f"cannot read the weights in {path}: {reason}")


def count_parameters(build: Callable[[], nn.Module]) -> int | None:
    """Return the number of parameters of a network without computing its initial weights; None if it is unknown."""
    shapes = _get_shapes(build)
    return None if shapes is None else _count(shapes.values())


def _count(shapes: Iterable[torch.Size]) -> int:
    return sum(shape.numel() for shape in shapes)


def _get_shapes(build: Callable[[], nn.Module]) -> dict[str, torch.Size] | None:
    """Return the shapes of the parameters of a network by name, or None if they are unknown."""
    try:
        with torch.device("meta"), _ZeroWeights():
            return {name: parameter.shape for name, parameter in build().named_parameters()}
    except Exception:  # this is only for an estimate: errors of a network are reported when it is built
        return None


class _ZeroWeights(TorchFunctionMode):
    """Sets initial weights of parameters to 0 where a network draws them, which takes much longer.

    On the meta device, the first draw would also import PyTorch's decompositions, within two seconds.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensor = args[0] if args else kwargs.get("tensor")
        if isinstance(tensor, nn.Parameter) and function.__name__ in _DRAWING:
            with torch.no_grad():
                return tensor.zero_()
        return function(*args, **kwargs)


def build_network(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return the network of a file with its weights. Raises ValueError if they do not fit.

    The file may describe any network. One with more weights than the file, which may not fit into the memory, is not
    built.
    """
    try:
        shapes = _get_shapes(build)
        if shapes is not None and _count(shapes.values()) > _count(tensor.shape for tensor in tensors.values()):
            raise ValueError("weights are missing")
        replaces_all = shapes is not None and shapes.keys() <= tensors.keys()
        with _ZeroWeights() if replaces_all else nullcontext():
            network = build()
        for name, tensor in network.state_dict().items():
            if name in tensors and tensors[name].is_floating_point() != tensor.is_floating_point():
                raise ValueError(f"{name} has another type")
        network.load_state_dict(tensors)
    except (OverflowError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(str(error)) from None
    return network


def _sort_metadata(data: bytes) -> bytes:
    """Sort the metadata in the header of a safetensors file, because the library writes them in random order."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]
