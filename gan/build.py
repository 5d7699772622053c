"""Config -> live objects. The only place that wires the rooms together."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from gan import rng
from gan.cache import cached, hash_of
from gan.config import AdamConfig, Config
from gan.data import DATASETS, Sampler, Splits
from gan.datasets.digits import Digits
from gan.ema import EMA
from gan.errors import UserError
from gan.evaluate import Evaluator
from gan.experiment import Experiment
from metrics.catalog import METRICS
from metrics.digits import DigitsClassifier, DigitsExtractor, train_digits_classifier
from metrics.lipschitz import LipschitzTracker
from models import ImageShape, build_discriminator, build_generator
from models.registry import did_you_mean


def build_experiment(config: Config, splits: Splits, folder: Path, device: torch.device) -> Experiment:
    """Return the objects of a run at step 0; UserError for choices that do not go together."""
    check_choices(config, splits)
    images = splits.train.images
    num_classes = splits.train.num_classes if config.data.conditional else None
    shape = ImageShape(images.shape[1], images.shape[2], num_classes)
    torch.manual_seed(rng.derive_seed(config.seed, "weights"))  # initializers draw from the global generator
    G = _network(build_generator, config.generator, shape, "generator", device, config)
    D = _network(build_discriminator, config.discriminator, shape, "discriminator", device, config)
    return Experiment(
        config=config,
        folder=folder,
        device=device,
        G=G,
        D=D,
        ema=EMA(G, config.train.ema_halflife_kimg),
        optimizer_G=_adam(G.parameters(), config.optimizer.generator),
        optimizer_D=_adam(D.parameters(), config.optimizer.discriminator),
        sampler=Sampler(splits.train, config.seed, device, config.data.horizontal_flip, config.data.dequantize),
        num_classes=num_classes,
        stacked=splits.stacked,
        loss=config.loss,
        regularizers=config.regularizers,
        evaluator=build_evaluator(config, splits, device),
        tracker=build_tracker(D, images, num_classes, config.lipschitz.iterations),
    )


def build_tracker(D: nn.Module, images: Tensor, num_classes: int | None, iterations: int) -> LipschitzTracker:
    """Return the tracker of D's layers for images shaped like `images` (N, C, H, W)."""
    weight = next(D.parameters())
    labels = None if num_classes is None else torch.zeros(1, dtype=torch.int64, device=weight.device)
    return LipschitzTracker(D, (weight.new_zeros(1, *images.shape[1:]), labels), iterations)


def build_evaluator(config: Config, splits: Splits, device: torch.device) -> Evaluator | None:
    """Return the evaluator on the features of the digits classifier, or None when no metric is asked for."""
    if not config.eval.metrics:
        return None
    held_out = splits.held_out.images.to(device)
    extractor = DigitsExtractor(digits_classifier(held_out.shape[-1]).to(device))
    return Evaluator(extractor, held_out, config.eval.metrics, config.eval.num_samples)


def digits_classifier(resolution: int) -> DigitsClassifier:
    """Return the classifier of gray digits of this resolution, trained on the training scans alone."""
    scans = Digits(resolution=resolution).load().train
    key = hash_of(scans.images, scans.labels, DigitsClassifier.VERSION)
    state = cached(f"digits_classifier-{key}", lambda: train_digits_classifier(scans.images, scans.labels).state_dict())
    classifier = DigitsClassifier()
    classifier.load_state_dict(state)
    return classifier.eval().requires_grad_(False)


def check_choices(config: Config, splits: Splits) -> None:
    """Raise UserError for what each part alone cannot know."""
    if config.train.batch_size > len(splits.train):
        raise UserError(
            f"train.batch_size={config.train.batch_size} is larger than the training set ({len(splits.train)} images)"
        )
    for name in config.eval.metrics:
        if name not in METRICS:
            hint = did_you_mean(name, METRICS)
            raise UserError(f"eval.metrics: unknown metric '{name}' (choices: {', '.join(sorted(METRICS))}){hint}")
        if not config.data.of_digits:
            data = DATASETS.name_of(type(config.data))
            raise UserError(f"eval.metrics: {name} is for digits, not for {data}; set eval.metrics=[]")


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
    return network.to(memory_format=torch.channels_last) if config.train.channels_last else network


def _adam(parameters: Iterable[Tensor], options: AdamConfig) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=options.lr, betas=options.betas, eps=options.eps)
