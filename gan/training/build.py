"""Builds the experiment of a config: networks, optimizers, inputs and evaluator."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gan.config import AdamConfig, Config
from gan.data import ImageData, Sampler, Splits
from gan.data.contents import get_contents
from gan.data.labels import LabelDistribution, count_labels
from gan.data.subset import subset_rows
from gan.evaluation.build import build_evaluator, check_metrics
from gan.objectives.ada import AdaptiveAugmentation
from gan.options.schedules import Schedule, get_value
from gan.runtime import rng
from gan.runtime.cuda_graphs import CUDAGraphs
from gan.runtime.distributed import world_size
from gan.runtime.errors import UserError
from gan.runtime.precision import build_loss_scaler
from gan.training.ema import EMA
from gan.training.experiment import Experiment
from gan.training.inputs import Inputs, StepInputs, UpdateInputs
from gan.training.schedules import ScheduledOptions
from metrics.lipschitz import LipschitzTracker
from models import ImageShape, build_discriminator, build_generator
from models.activation_norms.batch import BatchNorm
from models.normalizations import describe_untouched
from models.protocols import varies_between_calls


def build_experiment(config: Config, splits: Splits, device: torch.device) -> Experiment:
    """Return the experiment at step 0. Raises UserError for options that do not fit together."""
    check_choices(config, splits)
    images, image_shape = splits.train.images, get_image_shape(config, splits)
    num_classes = image_shape.num_classes
    torch.manual_seed(rng.derive_seed(config.seed, "weights"))  # initializers use the global random generator
    G = _prepare(config, "generator", build_generator, image_shape, device)
    D = _prepare(config, "discriminator", build_discriminator, image_shape, device)
    inputs = build_inputs(config, splits, num_classes, device)
    step_inputs = build_step_inputs(config, inputs)
    evaluator = build_evaluator(config.eval.metrics, config.metrics, splits, device)
    optimizer_G = _build_adam(G, config.optimizer.generator, device)
    optimizer_D = _build_adam(D, config.optimizer.discriminator, device)
    ada = build_ada(config, image_shape, device)
    return Experiment(
        config=config,
        image_shape=image_shape,
        contents=get_contents(splits),
        device=device,
        G=G,
        D=D,
        ema=EMA(G),
        optimizer_G=optimizer_G,
        optimizer_D=optimizer_D,
        scaler_G=build_loss_scaler(device, config.train.precision),
        scaler_D=build_loss_scaler(device, config.train.precision),
        inputs=inputs,
        step_inputs=step_inputs,
        regularizer_states=build_regularizer_states(config, device),
        ada=ada,
        scheduled=ScheduledOptions(config, optimizer_G, optimizer_D, ada, device),
        graphs=build_graphs(config, device, G, D, step_inputs),
        tracker=build_tracker(D, images, num_classes, config.lipschitz.iterations),
        tracker_graphs=CUDAGraphs([], []) if device.type == "cuda" and config.train.graph is not False else None,
        evaluator=evaluator,
    )


def get_image_shape(config: Config, splits: Splits) -> ImageShape:
    """Return the shape of the images that the networks of a config are built for."""
    images, num_classes = splits.train.images, splits.train.num_classes
    return ImageShape(images.shape[1], images.shape[2], num_classes if config.data.conditional else None)


def describe_normalizations(experiment: Experiment) -> list[str]:
    """Return a line for each network that the config normalizes in part, on the weights that are not normalized."""
    networks = {"generator": experiment.G, "discriminator": experiment.D}
    configs = {section: getattr(experiment.config, section).normalization for section in networks}
    notes = {section: describe_untouched(networks[section], configs[section]) for section in networks}
    return [f"{section}: {note}" for section, note in notes.items() if note is not None]


def build_inputs(config: Config, splits: Splits, num_classes: int | None, device: torch.device) -> Inputs:
    """Return the source of real images and latents; images are kept on the device if they fit."""
    rows = subset_rows(splits.train.labels, config.data.subset, config.seed)
    return Inputs(
        sampler=Sampler(splits.train, config.data, config.seed, device, rows),
        z_dim=config.generator.z_dim,
        labels=None if num_classes is None else build_labels(config, splits.train, rows, device),
        seed=config.seed,
        device=device,
        channels_last=config.train.channels_last,
    )


def build_labels(config: Config, data: ImageData, rows: Tensor | None, device: torch.device) -> LabelDistribution:
    """Return the distribution of the labels of generated images; `rows` (n,) are the training images that are used."""
    labels = data.labels if rows is None else data.labels[rows]
    return LabelDistribution(count_labels(labels, data.num_classes, config.data.label_frequencies), device)


def build_step_inputs(config: Config, inputs: Inputs) -> StepInputs:
    """Return the buffers and generators of a training step."""
    train = config.train
    size, num_parts = train.batch_size, train.accumulate
    num_real = train.fakes_per_update if config.loss.generator_sees_real else 0
    return StepInputs(
        discriminator=[UpdateInputs(inputs, "D", size, size, num_parts) for _ in range(train.n_critic)],
        generator=UpdateInputs(inputs, "G", train.fakes_per_update, num_real, num_parts),
    )


def build_regularizer_states(config: Config, device: torch.device) -> dict[str, nn.Module]:
    """Return what the regularizers remember between updates, by name, of those that remember something."""
    states = {name: regularizer.build_state() for name, regularizer in config.regularizers.items()}
    return {name: state.to(device) for name, state in states.items() if state is not None}


def build_ada(config: Config, image: ImageShape, device: torch.device) -> AdaptiveAugmentation | None:
    """Return the augmentation `ada` if the config names it. Raises UserError for images without colors."""
    train = config.train
    if "ada" not in train.augment:
        return None
    try:
        return AdaptiveAugmentation(train.ada, image.channels, image.resolution, train.batch_size).to(device)
    except ValueError as error:
        raise UserError(f"train.augment: {error}") from None


def build_graphs(
    config: Config, device: torch.device, G: nn.Module, D: nn.Module, inputs: StepInputs
) -> CUDAGraphs | None:
    """Return the CUDA graphs of a training step, or None if it runs eagerly.

    Raises UserError if `train.graph=true` asks for graphs that are not possible.
    """
    if config.train.graph is False:
        return None
    obstacle = find_obstacle_to_graphs(config, device, G, D)
    if obstacle is None:
        return CUDAGraphs(inputs.generators, [*G.parameters(), *D.parameters()])
    if config.train.graph is True:
        raise UserError(f"train.graph=true: {obstacle}; use train.graph=auto")
    return None


def find_obstacle_to_graphs(config: Config, device: torch.device, G: nn.Module, D: nn.Module) -> str | None:
    """Return why a training step cannot be captured as a CUDA graph, or None if it can."""
    if device.type != "cuda":
        return f"a CUDA graph needs a CUDA device, not {device.type}"
    if world_size() > 1:
        return "the messages between processes are not captured"
    if any(
        isinstance(b, Schedule) for a in (config.optimizer.generator, config.optimizer.discriminator) for b in a.betas
    ):
        return "the optimizer's betas follow a schedule, and PyTorch's Adam reads them on the host"
    modules = [*G.named_modules(), *D.named_modules()]
    varying = next((path for path, module in modules if varies_between_calls(module)), None)
    return None if varying is None else f"the layer {varying} runs other kernels from time to time"


def build_tracker(D: nn.Module, images: Tensor, num_classes: int | None, iterations: int) -> LipschitzTracker:
    """Return the tracker of the layers of D for images shaped like `images` (N, C, H, W)."""
    weight = next(D.parameters())
    image = weight.new_zeros(1, *images.shape[1:])
    if num_classes is None:
        return LipschitzTracker(D, image, iterations)
    return LipschitzTracker(D, (image, torch.zeros(1, dtype=torch.int64, device=weight.device)), iterations)


def check_choices(config: Config, splits: Splits) -> None:
    """Raise UserError for options that do not fit the data or the number of processes."""
    if config.train.batch_size > len(splits.train):
        raise UserError(
            f"train.batch_size={config.train.batch_size} is larger than the training set ({len(splits.train)} images);"
            " choose a smaller one"
        )
    for key in ("batch_size", "generator_batch_size"):
        size, parts = getattr(config.train, key) or 0, config.train.accumulate
        if size % (world_size() * parts) != 0:
            among = f"{world_size()} processes" if parts == 1 else f"{world_size()} x {parts} parts (train.accumulate)"
            raise UserError(
                f"train.{key}={size} cannot be divided evenly among {among}; use a multiple of {world_size() * parts}"
            )
    for name, regularizer in config.regularizers.items():
        if config.train.accumulate > 1 and regularizer.build_state() is not None:
            raise UserError(
                f"regularizers.{name}: it remembers numbers of whole batches, which train.accumulate divides; remove"
                " one of both"
            )
    if config.loss.generator_sees_real and config.data.conditional and config.data.label_frequencies == "uniform":
        raise UserError(
            "data.label_frequencies=uniform: this loss compares generated images with real ones of the same labels;"
            " use data.label_frequencies=data or another loss"
        )
    check_metrics(config.eval.metrics, config.data, splits)


def _prepare(config: Config, section: str, build: Callable, image_shape: ImageShape, device: torch.device) -> nn.Module:
    """Return the network of a section of the config, on the device and in the memory format of the config."""
    try:
        network = build(getattr(config, section), image_shape).to(device)
    except ValueError as error:
        raise UserError(f"{section}: {error}") from None
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.across_processes = config.train.sync_batch_norm
    return network.to(memory_format=torch.channels_last) if config.train.channels_last else network


def _build_adam(network: nn.Module, options: AdamConfig, device: torch.device) -> torch.optim.Adam:
    """Return the optimizer of a network: on a GPU in one kernel, with everything that changes in tensors."""
    on_gpu = device.type != "cpu"
    lr, beta1, beta2 = (get_value(option, 0, 1) for option in (options.lr, *options.betas))  # set before each step
    # On a CPU, fused Adam would round differently from PyTorch's default.
    fused = {"fused": True, "capturable": True} if on_gpu else {}
    lr = torch.tensor(lr, device=device) if on_gpu else lr
    return torch.optim.Adam(network.parameters(), lr=lr, betas=(beta1, beta2), eps=options.eps, **fused)
