"""Builds the experiment of a classifier's config: network, optimizer, data sets."""

import torch
from torch import Tensor, nn

from classification.config import Config, StandardizeConfig
from classification.data import LabelledSets, build_sets
from classification.experiment import Experiment
from gan.data import Sampler, Splits
from gan.data.contents import get_contents
from gan.objectives.regularizers import REGULARIZERS
from gan.objectives.regularizers.weight import WeightPenalty
from gan.runtime import rng
from gan.runtime.errors import UserError
from metrics.lipschitz import LipschitzTracker
from models import ImageShape, build_classifier
from models.networks.layers import standardize_images
from models.normalizations.gradient import GradientNorm

STATISTICS_IMAGES = 10_000  # training images, evenly spaced, for the mean and standard deviation of the channels


def build_experiment(config: Config, splits: Splits, device: torch.device) -> Experiment:
    """Return the experiment at step 0. Raises UserError for options that do not fit together."""
    check_choices(config)
    regularizers = weight_penalties(config)
    sets = build_sets(config, splits)
    network = build_network(config, sets, device)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=config.optimizer.lr,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
    )
    image = torch.zeros(1, *sets.train.images.shape[1:], device=device)
    return Experiment(
        config=config,
        contents=get_contents(splits),
        device=device,
        network=network,
        optimizer=optimizer,
        sets=sets,
        sampler=Sampler(sets.train, config.data, config.seed, device, sets.rows),
        regularizers=regularizers,
        tracker=LipschitzTracker(network, image, config.lipschitz.iterations),
        delta=image.repeat(config.train.batch_size, 1, 1, 1),
    )


def build_network(config: Config, sets: LabelledSets, device: torch.device) -> nn.Module:
    """Return the classifier of images (B, C, H, W) in [0, 1]; its first layer standardizes them."""
    channels, side = sets.train.images.shape[1:3]
    torch.manual_seed(rng.derive_seed(config.seed, "weights"))  # initializers use the global random generator
    try:
        network = build_classifier(config.classifier, ImageShape(channels, side, sets.train.num_classes))
    except ValueError as error:
        raise UserError(f"classifier: {error}") from None
    whole = standardize_images(network, *get_statistics(config.standardize, sets.train.images)).to(device)
    return whole.to(memory_format=torch.channels_last) if config.train.channels_last else whole


def get_statistics(options: StandardizeConfig, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (C,): those of the options, or else those of images (N, C, H, W) uint8.

    Raises UserError if the options have another number of channels.
    """
    channels = images.shape[1]
    for key, values in (("mean", options.mean), ("std", options.std)):
        if values is not None and len(values) != channels:
            raise UserError(f"standardize.{key}: {len(values)} values, but the images have {channels} channels")
    mean, std = channel_statistics(images)
    return (
        mean if options.mean is None else torch.tensor(options.mean),
        std if options.std is None else torch.tensor(options.std),
    )


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (C,) of images (N, C, H, W) uint8 scaled to [0, 1], from at most 10,000."""
    some = images[:: -(-len(images) // STATISTICS_IMAGES)].double() / 255
    return some.mean(dim=(0, 2, 3)).float(), some.std(dim=(0, 2, 3)).clamp(min=1 / 255).float()


def check_choices(config: Config) -> None:
    """Raise UserError for options that only discriminators support."""
    if isinstance(config.classifier.normalization, GradientNorm):
        raise UserError(
            "classifier.normalization: `gradient` needs a network with a single logit, a discriminator; choose another"
        )


def weight_penalties(config: Config) -> dict[str, WeightPenalty]:
    """Return the penalties by name. Raises UserError for a penalty that only discriminators support."""
    penalties: dict[str, WeightPenalty] = {}
    for name, regularizer in config.regularizers.items():
        if not isinstance(regularizer, WeightPenalty):
            known = [name for name in REGULARIZERS if issubclass(REGULARIZERS.get(name), WeightPenalty)]
            raise UserError(f"regularizers: {name} is for discriminators; a classifier supports {', '.join(known)}")
        if "discriminator" not in regularizer.networks:
            raise UserError(f"regularizers.{name}.networks: a classifier has no generator; remove this key")
        penalties[name] = regularizer
    return penalties
