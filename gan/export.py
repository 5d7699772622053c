"""A finished network as one file that other programs can read."""

from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from gan.config import Config
from gan.files import write_atomically
from gan.yaml_config import dump_config

GENERATOR = "generator.safetensors"


def export_generator(folder: Path, generator: nn.Module, config: Config) -> None:
    """Write the averaged generator's weights, with the config in the file's metadata."""
    export_network(folder / GENERATOR, generator, config)


def export_network(path: Path, network: nn.Module, config: Any) -> None:
    """Write a network's weights, with the config in the file's metadata."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    blob = save(tensors, metadata={"config": dump_config(config)})
    write_atomically(path, lambda file: file.write(blob))
