"""Training, validation and test sets of a classifier, and noisy labels."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from classification.config import Config
from gan.data import DATASETS, ImageData, Splits
from gan.data.subset import stratified_split
from gan.runtime import rng
from gan.runtime.errors import UserError


@dataclass(frozen=True)
class LabelledSets:
    """Images for training (`rows` (n,) of `train`), validation (`validation_rows` (m,) of `train`) and testing.

    Only the labels of `rows` may be noisy.
    """

    train: ImageData
    rows: Tensor
    validation_rows: Tensor
    test: ImageData


def build_sets(config: Config, splits: Splits) -> LabelledSets:
    """Return the sets of a config, drawn from its seed. Raises UserError when the dataset does not support them."""
    train, test, name = splits.train, splits.held_out, DATASETS.get_name(type(config.data))
    if test is None:
        raise UserError(f"data: {name} has no held-out images for testing; set data.held_out")
    if train.num_classes < 2:
        raise UserError(
            f"data: {name} has no classes; a classifier needs at least two, for example one folder of images for each"
        )
    if test.num_classes != train.num_classes:
        raise UserError(
            f"data: the held-out images of {name} have other classes than the training images; use the same class names"
        )
    all_rows = torch.arange(len(train))
    validation_rows, rows = stratified_split(train.labels, all_rows, config.validation, config.seed, "validation")
    if config.data.subset < 1:
        rows, _ = stratified_split(train.labels, rows, config.data.subset, config.seed, "subset")
    if config.train.batch_size > len(rows):
        raise UserError(
            f"train.batch_size={config.train.batch_size} is larger than the training set ({len(rows)} images);"
            " choose a smaller one"
        )
    labels = train.labels.clone()
    labels[rows] = add_label_noise(
        labels[rows], train.num_classes, config.labels.noise, config.labels.exclude_true, config.seed
    )
    return LabelledSets(replace(train, labels=labels), rows, validation_rows, test)


def add_label_noise(labels: Tensor, num_classes: int, share: float, exclude_true: bool, seed: int) -> Tensor:
    """Return labels (n,) with symmetric noise: a fraction `share` of them is redrawn, as a function of the seed.

    They are redrawn uniformly from all classes, so that on average a fraction share (1 - 1 / num_classes) becomes
    wrong; or, with `exclude_true`, from the wrong classes. The labels redrawn for a smaller share are a subset of those
    for a larger one.
    """
    random = rng.generator("cpu", seed, "label noise")
    changed = torch.randperm(len(labels), generator=random)[: round(share * len(labels))]
    shift = torch.randint(1 if exclude_true else 0, num_classes, (len(labels),), generator=random)
    noisy = labels.clone()
    noisy[changed] = (labels[changed] + shift[changed]) % num_classes
    return noisy


def iterate_batches(
    data: ImageData, size: int, device: torch.device, rows: Tensor | None = None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield position, images (B, C, H, W) in [0, 1] and labels (B,) of all of `data`, or of its `rows`."""
    for start in range(0, len(data) if rows is None else len(rows), size):
        part = slice(start, start + size) if rows is None else rows[start : start + size]
        yield start, data.images[part].to(device).float() / 255, data.labels[part].to(device)
