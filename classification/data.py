"""What a classifier is trained, validated and tested on: rows of a dataset, and labels with noise."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from classification.config import Config
from gan.data import DATASETS, ImageData, Splits
from gan.data.subset import stratified
from gan.runtime import rng
from gan.runtime.errors import UserError


@dataclass(frozen=True)
class LabelledSets:
    """The training images of a dataset, of which `rows` (n,) are trained on and `validation_rows` (m,) are not.

    The labels of `rows` may be wrong, all others are as they came.
    """

    train: ImageData
    rows: Tensor
    validation_rows: Tensor
    test: ImageData


def labelled_sets(config: Config, splits: Splits) -> LabelledSets:
    """Return the sets that a config asks for, drawn from its seed; UserError when a dataset cannot give them."""
    train, test, name = splits.train, splits.held_out, DATASETS.get_name(type(config.data))
    if test is None:
        raise UserError(f"data: {name} has no held-out images to test on; hold some out (see data.test_root)")
    if train.num_classes < 2:
        raise UserError(f"data: {name} has no classes; a classifier needs two, each a folder of images say")
    if test.num_classes != train.num_classes:
        raise UserError(
            f"data: the held-out images of {name} are not of the same classes as the training images; name both alike"
        )
    everything = torch.arange(len(train))
    validation_rows, rows = stratified(train.labels, everything, config.validation, config.seed, "validation")
    if config.data.subset < 1:
        rows, _ = stratified(train.labels, rows, config.data.subset, config.seed, "subset")
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
    """Return labels (n,) of which that share, rounded, is drawn anew: symmetric noise, from the seed.

    Uniform over all classes, so that a fraction share (1 - 1 / num_classes) of the labels becomes wrong on average, or
    over the wrong ones alone. A smaller share is part of a larger one.
    """
    random = rng.generator("cpu", seed, "label noise")
    changed = torch.randperm(len(labels), generator=random)[: round(share * len(labels))]
    shift = torch.randint(1 if exclude_true else 0, num_classes, (len(labels),), generator=random)
    noisy = labels.clone()
    noisy[changed] = (labels[changed] + shift[changed]) % num_classes
    return noisy


def batches(
    data: ImageData, size: int, device: torch.device, rows: Tensor | None = None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield position, images (B, C, H, W) in [0, 1] and labels (B,), once over all of `data` or over its rows."""
    for start in range(0, len(data) if rows is None else len(rows), size):
        part = slice(start, start + size) if rows is None else rows[start : start + size]
        yield start, data.images[part].to(device).float() / 255, data.labels[part].to(device)
