"""Config -> live objects. The only place that wires the rooms together."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan import rng
from gan.config import AdamConfig, Config
from gan.data import DATASETS, ImageData, Sampler, Splits
from gan.data.subset import subset_rows
from gan.distributed import first_on_each_machine, from_all, world_size
from gan.ema import EMA
from gan.errors import UserError
from gan.evaluator import Evaluator
from gan.experiment import Experiment
from gan.extractors import EXTRACTORS, FeatureSpace, MetricsConfig, Unavailable
from metrics.catalog import MetricProtocol, parse_protocol
from metrics.features import FeatureExtractor
from metrics.frechet import FeatureStatistics
from metrics.lipschitz import LipschitzTracker
from models import ImageShape, build_discriminator, build_generator
from models.activation_norms.batch import BatchNorm
from models.registry import UnknownNameError


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
    return sampler_of(config, splits.train, subset_rows(splits.train.labels, config.data.subset, config.seed), device)


def sampler_of(config: Any, data: ImageData, rows: Tensor | None, device: torch.device) -> Sampler:
    """Return the sampler of these images, or of some rows of them, with the seed and data options of a config."""
    return Sampler(
        data,
        config.seed,
        device,
        horizontal_flip=config.data.horizontal_flip,
        dequantize=config.data.dequantize,
        device_budget_gb=config.data.device_budget_gb,
        workers=config.data.workers,
        rows=rows,
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
            with first_on_each_machine():
                extractors[space] = EXTRACTORS.get(space)().build(config.metrics, resolution, device)
        except Unavailable as reason:
            left_out |= {str(protocol): str(reason) for protocol in protocols if protocol.features == space}
    for elsewhere in from_all(left_out):  # what one process lacks, none can do
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


def extractor_of(space: str, options: MetricsConfig, resolution: int, device: torch.device) -> FeatureExtractor:
    """Return the extractor of a feature space for images of this resolution; UserError when it cannot be had."""
    try:
        return EXTRACTORS.get(space)().build(options, resolution, device)
    except (UnknownNameError, Unavailable) as error:
        raise UserError(str(error)) from None


def load_statistics(path: str | None) -> FeatureStatistics:
    """Return the statistics in a pytorch-fid .npz file; UserError when there are none."""
    if path is None:
        raise UserError("eval.metrics: a metric that ends in _file needs metrics.statistics=FILE.npz")
    try:
        return FeatureStatistics.load(path)
    except (OSError, ValueError) as error:
        raise UserError(f"metrics.statistics: cannot read {path}: {error}") from None


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
    data = DATASETS.name_of(type(config.data))
    for name in config.eval.metrics:
        protocol = parse_protocol(name)
        space = check_protocol(protocol)
        if space.digits_only and not config.data.of_digits:
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


def check_protocol(protocol: MetricProtocol) -> type[FeatureSpace]:
    """Return the feature space of a metric; UserError when there is none, or it cannot serve the metric."""
    try:
        space = EXTRACTORS.get(protocol.features)
    except UnknownNameError as error:
        raise UserError(f"{protocol}: {error}") from None
    if protocol.spec.needs_logits and not space.classifies:
        raise UserError(f"{protocol}: {protocol.features} has no classes, which {protocol.metric} needs")
    return space


def select_device(name: str) -> torch.device:
    """Return the device called auto, cpu or cuda; UserError when there is no such device."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("--device cuda: PyTorch sees no CUDA device here; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and available else "cpu")


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
