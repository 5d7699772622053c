"""Config -> live objects. The only place that wires the rooms together."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from gan.config import AdamConfig, Config
from gan.data import DATASETS, ImageData, Sampler, Splits
from gan.data.sampler import build_image_sampler
from gan.data.subset import subset_rows
from gan.evaluation.evaluator import Evaluator, check_protocol, load_statistics
from gan.evaluation.extractors import EXTRACTORS, Unavailable
from gan.runtime import rng
from gan.runtime.distributed import all_gather_objects, local_rank_zero_first, world_size
from gan.runtime.errors import UserError
from gan.training.ema import EMA
from gan.training.experiment import Experiment
from metrics.catalog import parse_protocol
from metrics.extractors.base import FeatureExtractor
from metrics.frechet import FeatureStatistics
from metrics.lipschitz import LipschitzTracker
from models import ImageShape, build_discriminator, build_generator
from models.activation_norms.batch import BatchNorm


def build_experiment(config: Config, splits: Splits, folder: Path, device: torch.device) -> Experiment:
    """Return the objects of a run at step 0; UserError for choices that do not go together."""
    check_choices(config, splits)
    images = splits.train.images
    num_classes = splits.train.num_classes if config.data.conditional else None
    shape = ImageShape(images.shape[1], images.shape[2], num_classes)
    torch.manual_seed(rng.derive_seed(config.seed, "weights"))  # initializers draw from the global generator
    G = _network(build_generator, config.generator, shape, "generator", device, config)
    D = _network(build_discriminator, config.discriminator, shape, "discriminator", device, config)
    evaluator, left_out = build_evaluator(config, splits, device)
    return Experiment(
        config=config,
        folder=folder,
        device=device,
        G=G,
        D=D,
        ema=EMA(G, config.train.ema_halflife_kimg),
        optimizer_G=_adam(G.parameters(), config.optimizer.generator),
        optimizer_D=_adam(D.parameters(), config.optimizer.discriminator),
        sampler=build_sampler(config, splits, device),
        image=shape,
        loss=config.loss,
        regularizers=config.regularizers,
        evaluator=evaluator,
        metrics_left_out=left_out,
        tracker=build_tracker(D, images, num_classes, config.lipschitz.iterations),
    )


def build_sampler(config: Config, splits: Splits, device: torch.device) -> Sampler:
    """Return the sampler of the training images that `data.subset` leaves, on the device when they fit there."""
    return build_image_sampler(
        config, splits.train, subset_rows(splits.train.labels, config.data.subset, config.seed), device
    )


def build_tracker(D: nn.Module, images: Tensor, num_classes: int | None, iterations: int) -> LipschitzTracker:
    """Return the tracker of D's layers for images shaped like `images` (N, C, H, W)."""
    weight = next(D.parameters())
    labels = None if num_classes is None else torch.zeros(1, dtype=torch.int64, device=weight.device)
    return LipschitzTracker(D, (weight.new_zeros(1, *images.shape[1:]), labels), iterations)


def build_evaluator(config: Config, splits: Splits, device: torch.device) -> tuple[Evaluator | None, dict[str, str]]:
    """Return the evaluator of the metrics that can be had here (None when there are none), and why others cannot."""
    protocols = [parse_protocol(name) for name in config.eval.metrics]
    resolution = splits.train.images.shape[-1]
    extractors: dict[str, FeatureExtractor] = {}
    left_out: dict[str, str] = {}
    for space in dict.fromkeys(protocol.features for protocol in protocols):
        try:
            with local_rank_zero_first():
                extractors[space] = EXTRACTORS.get(space)().build(config.metrics, resolution, device)
        except Unavailable as reason:
            left_out |= {str(protocol): str(reason) for protocol in protocols if protocol.features == space}
    for elsewhere in all_gather_objects(left_out):  # what one process lacks, none can do
        left_out |= elsewhere
    possible = [protocol for protocol in protocols if str(protocol) not in left_out]
    extractors = {protocol.features: extractors[protocol.features] for protocol in possible}
    if not possible:
        return None, left_out
    real: dict[str, ImageData | FeatureStatistics] = {"train": splits.train}
    if splits.held_out is not None:
        real["test"] = splits.held_out
    of_file = [protocol for protocol in possible if protocol.reference == "file"]
    if of_file:
        real["file"] = statistics = load_statistics(config.metrics.statistics)
        for protocol in of_file:
            dimension = extractors[protocol.features](splits.train.images[:1].to(device)).features.shape[1]
            if dimension != len(statistics.mean):
                raise UserError(
                    f"metrics.statistics: {config.metrics.statistics} is of {len(statistics.mean)} features,"
                    f" not of the {dimension} that {protocol} has"
                )
    return Evaluator(possible, extractors, real, device), left_out


def check_choices(config: Config, splits: Splits) -> None:
    """Raise UserError for what each part alone cannot know."""
    if config.train.batch_size > len(splits.train):
        raise UserError(
            f"train.batch_size={config.train.batch_size} is larger than the training set ({len(splits.train)} images);"
            " choose a smaller one"
        )
    for key in ("batch_size", "generator_batch_size"):
        size = getattr(config.train, key) or 0
        if size % world_size() != 0:
            raise UserError(
                f"train.{key}={size} cannot be shared out evenly between {world_size()} processes; choose a multiple"
            )
    data = DATASETS.get_name(type(config.data))
    for name in config.eval.metrics:
        protocol = parse_protocol(name)
        space = check_protocol(protocol)
        if space.digits_only and not config.data.shows_digits:
            raise UserError(f"eval.metrics: {name} is for digits, not for {data}; leave it out")
        if protocol.reference in ("train", "test"):
            split = splits.train if protocol.reference == "train" else splits.held_out
            if split is None:
                raise UserError(f"eval.metrics: {name}: {data} has no held-out images; compare with _train")
            if len(split) < (protocol.reference_count or protocol.spec.fewest):
                raise UserError(
                    f"eval.metrics: {name}: {data} has {len(split)} images in its {protocol.reference} split;"
                    " compare with fewer, or leave it out"
                )


def _network(build, options, shape: ImageShape, section: str, device: torch.device, config: Config) -> nn.Module:
    try:
        network = build(options, shape).to(device)
    except ValueError as error:
        raise UserError(f"{section}: {error}") from None
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.across_processes = config.train.sync_batch_norm
    return network.to(memory_format=torch.channels_last) if config.train.channels_last else network


def _adam(parameters: Iterable[Tensor], options: AdamConfig) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=options.lr, betas=options.betas, eps=options.eps)
