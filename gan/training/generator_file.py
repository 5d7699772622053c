"""A trained generator, and the safetensors file that contains it."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn

from gan.config import Config
from gan.data.contents import Contents, parse_contents, refuse_changed_images
from gan.data.labels import LabelDistribution, restore_labels
from gan.options.loader import dump_config, parse_config, parse_values
from gan.runtime.errors import UserError
from gan.runtime.weights import GENERATOR, build_network, export_network, read_metadata, read_weights
from gan.training.generator_state import check_labels, read_image_shape
from models import ImageShape, build_generator
from models.ranges import AT_LEAST_0


@dataclass(frozen=True, kw_only=True)
class _Description:
    """What a file of a generator contains besides the weights and the config, each as JSON."""

    image: tuple[int, int, int | None]
    """The fields of its `ImageShape`"""
    step: Annotated[int, AT_LEAST_0] = 0
    label_counts: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TrainedGenerator:
    """The averaged generator of a run, and the config and data shape that it was trained for."""

    network: nn.Module
    config: Config
    image: ImageShape
    step: int
    labels: LabelDistribution | None = None
    """Distribution of the labels of a conditional generator"""
    contents: Contents | None = None
    """What identifies the images of its run, if it is known"""


def is_generator_file(run: Path) -> bool:
    """Return whether the RUN of a command is a safetensors file instead of a run folder."""
    return run.suffix.lower() == ".safetensors" and not run.is_dir()


def check_data(run: Path, generator: TrainedGenerator, image: ImageShape, contents: Contents, allowed: bool) -> None:
    """Raise UserError unless a data set is that of the run of a generator.

    Its images must have the shape of those that the generator generates. They must be the same, unless a change is
    `allowed`.
    """
    if image != generator.image:
        size, classes = generator.image.resolution, generator.image.num_classes
        raise UserError(
            f"{run} generates images of {size} x {size} pixels, {generator.image.channels} channels and"
            f" {classes or 'no'} classes, unlike the data set; set data.root and the other keys of its data"
        )
    refuse_changed_images(run, generator.contents, contents, allowed)


def export_generator(path: Path, generator: TrainedGenerator, bf16: bool = False) -> None:
    """Write a generator to a safetensors file, which `load_generator` can read without any other file.

    With `bf16`, the weights are rounded to bfloat16, which halves the file.
    """
    labels, config = generator.labels, dump_config(generator.config)
    counts = None if labels is None else labels.counts
    network = generator.network
    if bf16:
        network = copy.deepcopy(network).to(torch.bfloat16)
    state = {"step": generator.step, "label_counts": counts, "data": generator.contents}
    export_network(path, network, config, image=generator.image, **state)


def read_generator_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the config in a file of `export_generator`, with `key.sub=value` overrides applied.

    Raises UserError if the file cannot be read or contains no generator.
    """
    return parse_config(Config, _check_metadata(path, read_metadata(path))["config"], str(path), overrides)


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
    tensors, metadata = read_weights(path)
    _check_metadata(path, metadata)
    config: Config = parse_config(Config, metadata["config"], str(path))  # names a classifier, whose file has no step
    _check_metadata(path, metadata, "step")
    description, image = _parse_description(metadata, path)
    network = _build_network(config, image, tensors, path)
    network.to(device).eval().requires_grad_(False)
    labels = restore_labels(description.label_counts, image.num_classes, device)
    try:
        contents = parse_contents(metadata.get("data", "null"))
    except ValueError as error:
        raise UserError(f"{path}: its entry data does not fit: {error}; copy the file again") from None
    return TrainedGenerator(network, config, image, description.step, labels, contents)


def _parse_description(metadata: Mapping[str, str], path: Path) -> tuple[_Description, ImageShape]:
    texts = {name: text for name, text in metadata.items() if name in ("image", "step", "label_counts")}
    description: _Description = parse_values(_Description, texts, str(path))
    try:
        image = read_image_shape(vars(description))
        check_labels(vars(description), image.num_classes)
    except ValueError as error:
        raise UserError(f"{path}: {error}; copy the file again") from None
    return description, image


def _build_network(config: Config, image: ImageShape, tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    try:
        return build_network(lambda: build_generator(config.generator, image), tensors)
    except ValueError:
        raise UserError(
            f"the weights in {path} do not fit the network that the file describes; copy it again"
        ) from None


def _check_metadata(path: Path, metadata: dict[str, str], *more: str) -> dict[str, str]:
    """Return the metadata of a file. Raises UserError unless they describe a network, and have `more` entries."""
    if not metadata.keys() >= {"config", "image", *more}:
        raise UserError(f"{path} contains no description of its network; run: python -m gan.export RUN --out FILE")
    return metadata
