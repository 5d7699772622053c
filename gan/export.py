"""The finished generator as one file that other programs can read."""

from pathlib import Path

from safetensors.torch import save
from torch import nn

from gan.config import Config
from gan.files import write_atomically
from gan.yaml_config import dump_config

GENERATOR = "generator.safetensors"


def export_generator(folder: Path, generator: nn.Module, config: Config) -> None:
    """Write the averaged generator's weights, with the config in the file's metadata."""
    tensors = {name: tensor.contiguous() for name, tensor in generator.state_dict().items()}
    blob = save(tensors, metadata={"config": dump_config(config)})
    write_atomically(folder / GENERATOR, lambda file: file.write(blob))
