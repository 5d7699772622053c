"""Samples of a conditional generator as training images, for the classification accuracy score."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from gan.data.base import DATASETS, DatasetConfig, Splits, to_uint8
from gan.data.contents import Contents, get_contents, parse_contents, refuse_changed_images
from gan.options.loader import construct
from gan.options.nodes import parse_yaml
from gan.runtime import rng
from gan.runtime.errors import UserError
from gan.runtime.memory import require_memory
from gan.runtime.paths import expand_path
from gan.runtime.weights import GENERATOR, build_network, read_weights
from models import GeneratorConfig, ImageShape, build_generator
from models.calls import call_network
from models.ranges import Range

BATCH_SIZE = 250


class Run(NamedTuple):
    """What the file of a run contains: the averaged generator, and how to build it and to load its data."""

    weights: dict[str, Tensor]
    image: ImageShape
    generator: GeneratorConfig
    dataset: DatasetConfig
    contents: Contents | None
    """What identifies the images of its dataset, if it is known"""


@DATASETS.register("generated")
@dataclass(frozen=True, kw_only=True)
class Generated(DatasetConfig):
    """Samples of the averaged generator of a class-conditional run, with the held-out images of the run's dataset.

    There is a sample for each training image of the run's dataset, with the label of that image. So the test accuracy
    of a classifier that is trained on this dataset is the classification accuracy score of the generator (Ravuri &
    Vinyals, NeurIPS 2019).
    """

    run: str = ""
    """Run folder of train_gan.py, or its .safetensors file; required"""
    seed: Annotated[int, Range(min=0, max=2**63 - 1)] = 0
    """Seed of the latents"""

    def missing(self) -> list[str]:
        """Return a line if the generator cannot be used, or for everything that is missing of the run's dataset."""
        try:
            dataset = self._read_run().dataset
        except UserError as error:
            return error.lines
        return dataset.missing()

    def load(self) -> Splits:
        """Return the samples and the held-out images. Raises UserError for a generator without classes."""
        run = self._read_run()
        real = run.dataset.load()
        refuse_changed_images(Path(self.run), run.contents, get_contents(real), self.allow_changes)
        if real.held_out is None:
            raise UserError(f"data.run: the dataset of {self.run} has no held-out images to test a classifier on")
        if real.train.num_classes != run.image.num_classes:
            raise UserError(
                f"data.run: the dataset of {self.run} has {real.train.num_classes} classes now, but had"
                f" {run.image.num_classes} when its generator was trained; restore the dataset"
            )
        try:
            network = build_network(lambda: build_generator(run.generator, run.image), run.weights)
        except ValueError:
            raise UserError(
                f"data.run: the weights of {self.run} do not fit the network that the file describes; copy it again"
            ) from None
        # The batches and their concatenation, and the latents in single precision.
        size = 2 * run.image.channels * run.image.resolution**2 + 4 * run.generator.z_dim
        require_memory(
            len(real.train) * size, f"data.run: {len(real.train):,} samples", "name a run with a smaller dataset"
        )
        images = generate(network, run.generator.z_dim, real.train.labels, self.seed)
        return Splits(replace(real.train, images=images, preparation=None), real.held_out)

    def _read_run(self) -> Run:
        if not self.run:
            raise UserError("data.run is missing: the dataset `generated` needs a run of train_gan.py")
        path = expand_path(self.run, "data.run")
        path = path / GENERATOR if path.is_dir() else path
        if not path.is_file():
            raise UserError(f"data.run: {path} does not exist; train the run to its end, or name an exported file")
        tensors, metadata = read_weights(path)
        try:
            config = parse_yaml(metadata["config"], str(path)).value
            generator, dataset = config["generator"], config["data"]
            image = ImageShape(*json.loads(metadata["image"]))
            contents = parse_contents(metadata.get("data", "null"))
        except (KeyError, TypeError, ValueError, RecursionError):
            raise UserError(f"data.run: {path} describes no generator; name a run of train_gan.py") from None
        if image.num_classes is None:
            raise UserError(
                f"data.run: the generator of {self.run} is not class-conditional, so that its samples have no labels;"
                " train one with `conditional: true` in its data"
            )
        return Run(
            tensors,
            image,
            construct(GeneratorConfig, generator, "generator"),
            construct(DatasetConfig, dataset, "data"),
            contents,
        )


@torch.no_grad()
def generate(network: nn.Module, z_dim: int, labels: Tensor, seed: int) -> Tensor:
    """Return a sample for each label (N,) as uint8 images (N, C, H, W), computed on the CPU: the same everywhere."""
    network.eval()
    z = torch.randn(len(labels), z_dim, generator=rng.generator("cpu", seed, "generated"))
    batches = zip(z.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True)
    return torch.cat([to_uint8(call_network(network, z, y)) for z, y in batches])
