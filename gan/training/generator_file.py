"""A trained generator, and the safetensors file that contains it."""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gan.config import Config
from gan.data.labels import LabelDistribution, restore_labels
from gan.options.loader import dump_config, parse_config
from gan.runtime.errors import UserError
from gan.runtime.weights import GENERATOR, export_network, read_weights
from models import ImageShape, build_generator


@dataclass(frozen=True)
class TrainedGenerator:
    """The averaged generator of a run, and the config and data shape that it was trained for."""

    network: nn.Module
    config: Config
    image: ImageShape
    step: int
    labels: LabelDistribution | None = None
    """Distribution of the labels of a conditional generator"""


def is_generator_file(run: Path) -> bool:
    """Return whether the RUN of a command is a safetensors file instead of a run folder."""
    return run.suffix == ".safetensors" and not run.is_dir()


def export_generator(path: Path, generator: TrainedGenerator, bf16: bool = False) -> None:
    """Write a generator to a safetensors file, which `load_generator` can read without any other file.

    With `bf16`, the weights are rounded to bfloat16, which halves the file.
    """
    labels, config = generator.labels, dump_config(generator.config)
    counts = None if labels is None else labels.counts
    network = generator.network
    if bf16:
        network = copy.deepcopy(network).to(torch.bfloat16)
    export_network(path, network, config, image=generator.image, step=generator.step, label_counts=counts)


def read_generator_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the config in a file of `export_generator`, with `key.sub=value` overrides applied.

    Raises UserError if the file cannot be read or contains no generator.
    """
    return parse_config(Config, _read(path)[1]["config"], str(path), overrides)


def load_generator(path: Path | str, device: torch.device | str = "cpu") -> TrainedGenerator:
    """Load a generator that `export_generator` has written.

    Example::

        generator = load_generator("runs/first")
        z, y = torch.randn(20, generator.config.generator.z_dim), torch.arange(20) % 10
        images = generator.network(z, y)  # (20, C, H, W) in [-1, 1]; without y if it is not class-conditional

    Args:
        path: A run folder that contains `generator.safetensors`, or the path of such a file.
        device: The device of the network.

    Returns:
        The generator in evaluation mode, in single precision. Its parameters do not require gradients.

    Raises:
        UserError: If the file cannot be read or contains no generator.
    """
    path = Path(path)
    path = path / GENERATOR if path.is_dir() else path
    tensors, metadata = _read(path)
    config: Config = parse_config(Config, metadata["config"], str(path))
    image = ImageShape(*json.loads(metadata["image"]))
    network = build_generator(config.generator, image)
    try:
        network.load_state_dict(tensors)
    except RuntimeError:
        raise UserError(
            f"the weights in {path} do not fit the network that the file describes; copy it again"
        ) from None
    network.to(device).eval().requires_grad_(False)
    labels = restore_labels(json.loads(metadata.get("label_counts", "null")), image.num_classes, device)
    return TrainedGenerator(network, config, image, json.loads(metadata["step"]), labels)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors, metadata = read_weights(path)
    if not metadata.keys() >= {"config", "image", "step"}:
        raise UserError(f"{path} contains no description of its network; run: python -m gan.export RUN --out FILE")
    return tensors, metadata
