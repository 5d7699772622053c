"""The training images nearest to samples, with their distances and classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gan.data import ImageData
from gan.data.contents import get_contents
from gan.data.grids import labeled_rows
from gan.data.subset import subset_rows
from gan.evaluation.extractors import build_extractor
from gan.evaluation.features import extract_image_features
from gan.evaluation.reference import load_reference
from gan.training.build import get_image_shape
from gan.training.generator_file import TrainedGenerator, check_data

NEIGHBORS = 7  # training images next to a sample


class Neighbors(NamedTuple):
    """The training images nearest to each of N samples, the nearest first."""

    images: Tensor
    """uint8 (N, K, C, H, W)"""
    labels: Tensor
    """Classes (N, K)"""
    distances: Tensor
    """Euclidean distances (N, K) of the features"""


def load_training_images(run: Path, generator: TrainedGenerator) -> ImageData:
    """Return the training images of a run.

    Raises UserError if they have another shape, or if they have changed since the run began.
    """
    config = generator.config
    splits = config.data.load()
    image, contents = get_image_shape(config, splits), get_contents(splits)
    check_data(run, generator, image, contents, config.data.allow_changes)
    return splits.train


def find_neighbors(
    samples: Tensor, train: ImageData, generator: TrainedGenerator, space: str, device: torch.device
) -> Neighbors:
    """Return the nearest training images of samples (N, C, H, W) uint8 in a feature space.

    Samples that are nearly equal to their neighbors indicate that the generator has memorized training images. Only
    images with which the generator was trained count.
    """
    config = generator.config
    extractor = build_extractor(space, config.metrics, generator.image, device)
    fake = extract_image_features(extractor, samples, device).features
    real = load_reference(extractor, train, None, device, {"features"}).features
    rows = subset_rows(train.labels, config.data.subset, config.seed)
    rows = torch.arange(len(train)) if rows is None else rows
    distances = torch.cdist(fake.double(), real[rows.to(real.device)].double())
    nearest = distances.topk(min(NEIGHBORS, len(rows)), dim=1, largest=False)
    index = rows[nearest.indices.cpu()]
    images = train.images[index.flatten()].unflatten(0, index.shape)
    return Neighbors(images, train.labels[index], nearest.values.cpu())


def draw_neighbors(
    samples: Tensor, y: Tensor | None, neighbors: Neighbors, train: ImageData, space: str, stacked: bool
) -> Tensor:
    """Return a figure (3, H, W) uint8: each sample (C, H, W), a gap, and its neighbors with distance and class.

    `y` (N,) are the classes of the samples, or None. Classes are named as in the training images.
    """
    is_labeled = train.num_classes > 1 or len(train.class_names) > 0

    def name(label: Tensor) -> Sequence[str]:
        if not is_labeled:
            return []
        return [train.class_names[int(label)] if train.class_names else f"class {int(label)}"]

    captions = []
    for row, (labels, distances) in enumerate(zip(neighbors.labels, neighbors.distances, strict=True)):
        lines = [[] if y is None else name(y[row])]
        lines += [[f"{distance:.4g}", *name(label)] for label, distance in zip(labels, distances.tolist(), strict=True)]
        captions.append(lines)
    titles = "samples", f"nearest training images, with their distances in the feature space {space}"
    return labeled_rows(torch.cat([samples[:, None], neighbors.images], dim=1), captions, titles, stacked)
