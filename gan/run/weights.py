"""The weights of a network as one safetensors file, with what it takes to build the network again."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from gan.options.loader import dump_config
from gan.runtime.files import write_atomically


def export_network(path: Path, network: nn.Module, config: Any, **about: Any) -> None:
    """Write a network's weights; the file's metadata have the config as YAML and `about` as JSON."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    metadata = {"config": dump_config(config)} | {name: json.dumps(value) for name, value in about.items()}
    blob = _in_order(save(tensors, metadata=metadata))
    write_atomically(path, lambda file: file.write(blob))


def _in_order(blob: bytes) -> bytes:
    """Sort the metadata of a safetensors file, whose order is random otherwise: equal networks give equal files."""
    end = 8 + int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + blob[end:]
