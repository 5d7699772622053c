"""One training step of a GAN: `n_critic` updates of D, one update of G, and the weight average."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gan.objectives.augment import augment
from gan.objectives.regularizers import Batch
from gan.runtime.cuda_graphs import CaptureError
from gan.runtime.distributed import average_gradients
from gan.runtime.errors import UserError
from gan.runtime.precision import autocast, training_precision
from gan.training.experiment import Experiment
from gan.training.inputs import PartInputs, UpdateInputs, concatenate_labels
from models.calls import call_network, get_logits

Penalties = tuple[str, ...]  # the names of regularizers


def training_step(experiment: Experiment, G: nn.Module, D: nn.Module) -> dict[str, Tensor]:
    """Run one step and return its losses and mean logits by tag, as scalars on the device.

    `G` and `D` are the networks of the experiment, or their compiled forms. Everything random is a function of the
    seed and the step. The next step may overwrite the losses.
    """
    prepare_step(experiment)
    penalties = due_penalties(experiment)

    def run() -> dict[str, Tensor]:
        return run_updates(experiment, G, D, penalties)

    with training_precision(experiment.config.train.precision):
        try:
            # Steps with the same penalties launch the same kernels.
            losses = run() if experiment.graphs is None else experiment.graphs.run(penalties, run)
        except CaptureError as error:
            raise UserError(
                f"the training step cannot be captured as a CUDA graph; use train.graph=false ({error})"
            ) from error
    experiment.step += 1
    return losses


def prepare_step(experiment: Experiment) -> None:
    """Load the options that follow a schedule, and the random inputs of the next step."""
    config, inputs, step = experiment.config, experiment.step_inputs, experiment.step
    experiment.scheduled.load(experiment.images)
    if config.train.first == "generator":
        inputs.generator.load(step, experiment.images)
    for k, update in enumerate(inputs.discriminator):
        update.load(experiment.d_steps + k, experiment.images + k * config.train.batch_size)
    if config.train.first == "discriminator":
        inputs.generator.load(step, experiment.images)


def due_penalties(experiment: Experiment) -> tuple[Penalties, ...]:
    """Return the penalties of each update of D in the next step."""
    regularizers, n_critic = experiment.config.regularizers.items(), experiment.config.train.n_critic
    return tuple(tuple(name for name, r in regularizers if r.is_due(experiment.d_steps + k)) for k in range(n_critic))


def run_updates(
    experiment: Experiment, G: nn.Module, D: nn.Module, penalties: tuple[Penalties, ...]
) -> dict[str, Tensor]:
    """Run the updates of one step, and return its losses and mean logits by tag.

    Everything that differs between steps with the same penalties is in tensors and generators that `prepare_step` has
    filled, so a CUDA graph can replay this function.
    """
    train, inputs = experiment.config.train, experiment.step_inputs
    losses: dict[str, Tensor] = {}
    if train.first == "generator":
        losses |= update_generator(experiment, G, D, inputs.generator)
    for update, due in zip(inputs.discriminator, penalties, strict=True):
        losses |= update_discriminator(experiment, G, D, update, due)
    if train.first == "discriminator":
        losses |= update_generator(experiment, G, D, inputs.generator)
    experiment.ema.update(experiment.G, experiment.scheduled.ema_weight)
    return losses


def update_discriminator(
    experiment: Experiment, G: nn.Module, D: nn.Module, inputs: UpdateInputs, penalties: Penalties
) -> dict[str, Tensor]:
    """Update D once; return its loss without penalties, its mean logits, and the state of ADA."""
    experiment.optimizer_D.zero_grad()
    results = []
    for part in inputs.parts:
        with part.as_shard():
            results.append(add_discriminator_gradient(experiment, G, D, part, penalties))
    update_weights(experiment.D, experiment.optimizer_D, experiment.scaler_D)
    numbers = average_parts([numbers for numbers, _ in results])
    if experiment.ada is not None:
        logits_real = torch.cat([logits for _, logits in results])
        experiment.ada.observe(logits_real)
        numbers |= {"ada/p": experiment.ada.p.clone(), "logits/real_sign": logits_real.sign().mean()}
    return numbers


def add_discriminator_gradient(
    experiment: Experiment, G: nn.Module, D: nn.Module, inputs: PartInputs, penalties: Penalties
) -> tuple[dict[str, Tensor], Tensor]:
    """Add the gradient of D's loss of a part of a batch; return loss and mean logits by tag, and the real logits."""
    config, precision = experiment.config, experiment.config.train.precision
    batch = draw_batch(experiment, G, inputs)
    with autocast(experiment.device, precision):
        logits_real, logits_fake = (logits.float() for logits in discriminate(D, batch))
        loss = config.loss.discriminator(logits_real, logits_fake)
        total = loss
        batch = batch._replace(logits_real=logits_real, logits_fake=logits_fake)
        for name in penalties:
            regularizer = config.regularizers[name]
            batch = batch._replace(state=experiment.regularizer_states.get(name))
            # A lazy penalty also counts for the steps in which it is skipped. Penalties use the uncompiled D, because
            # compiled graphs have no double backward.
            factor = experiment.scheduled.penalty_weights[name] * regularizer.every
            # The gradients inside a penalty are not scaled, so they would be rounded to zero in fp16.
            with autocast(experiment.device, "fp32" if precision == "fp16" else precision):
                total = total + factor * regularizer.penalty(experiment.D, batch, inputs.penalty)
    add_gradient(total, experiment.scaler_D, config.train.accumulate)
    logits_real, logits_fake = logits_real.detach(), logits_fake.detach()
    return {"loss/D": loss.detach(), "logits/real": logits_real.mean(), "logits/fake": logits_fake.mean()}, logits_real


def update_generator(experiment: Experiment, G: nn.Module, D: nn.Module, inputs: UpdateInputs) -> dict[str, Tensor]:
    """Update G once, while the parameters of D are frozen; return its loss without penalties."""
    experiment.optimizer_G.zero_grad()
    experiment.D.requires_grad_(False)
    results = []
    for part in inputs.parts:
        with part.as_shard():
            results.append(add_generator_gradient(experiment, G, D, part))
    update_weights(experiment.G, experiment.optimizer_G, experiment.scaler_G)
    experiment.D.requires_grad_(True)
    return average_parts(results)


def add_generator_gradient(experiment: Experiment, G: nn.Module, D: nn.Module, inputs: PartInputs) -> dict[str, Tensor]:
    """Add the gradient of G's loss of a part of a batch; return the loss by its tag."""
    config = experiment.config
    with autocast(experiment.device, config.train.precision):
        z, y = inputs.latents()
        x_real = None
        if config.loss.generator_sees_real:
            x_real, y = inputs.real_images()  # G draws its images for the labels of the real ones
        raw_fake = call_network(G, z, y).float()
        x_fake = augment(raw_fake, config.train.augment, inputs.augmentation, experiment.ada)
        logits_fake = get_logits(D, x_fake, y).float()
        logits_real = None
        if x_real is not None:
            with torch.no_grad():
                x_real = augment(x_real, config.train.augment, inputs.augmentation, experiment.ada)
                logits_real = get_logits(D, x_real, y).float()
        total = loss = config.loss.generator(logits_fake, logits_real)
        for name, regularizer in config.regularizers.items():
            if regularizer.weight != 0:
                penalty = regularizer.generator_penalty(G, z, y, raw_fake, inputs.penalty)
                weight = experiment.scheduled.penalty_weights[name]
                total = total if penalty is None else total + weight * penalty
    add_gradient(total, experiment.scaler_G, config.train.accumulate)
    return {"loss/G": loss.detach()}


def add_gradient(loss: Tensor, scaler: torch.amp.GradScaler, num_parts: int) -> None:
    """Add the gradient of the mean loss of a part, so that the sum over all parts is that of the mean of the batch."""
    scaled = scaler.scale(loss)
    scaled.backward(torch.full_like(scaled, 1 / num_parts))


def update_weights(network: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Update the weights of a network by its gradient, averaged over the processes."""
    average_gradients(network)
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()


def average_parts(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the means of the numbers of all parts by tag."""
    if len(parts) == 1:
        return parts[0]
    return {tag: torch.stack([numbers[tag] for numbers in parts]).mean() for tag in parts[0]}


def draw_batch(experiment: Experiment, G: nn.Module, inputs: PartInputs) -> Batch:
    """Return the real and generated images of a part of a D update, augmented in the same way; G gets no gradient."""
    config = experiment.config
    x_real, y_real = inputs.real_images()
    with autocast(experiment.device, config.train.precision), torch.no_grad():
        z, y_fake = inputs.latents()
        if config.loss.generator_sees_real:
            y_fake = y_real  # pairs of a real and a fake image have the same label
        x_fake = call_network(G, z, y_fake).to(x_real.dtype)
    if not config.train.augment:
        return Batch(x_real, y_real, x_fake, y_fake, G=G, z=z)
    raw_real, raw_fake = x_real.requires_grad_(), x_fake.requires_grad_()
    x_real, x_fake = (
        augment(raw, config.train.augment, inputs.augmentation, experiment.ada) for raw in (raw_real, raw_fake)
    )
    return Batch(x_real, y_real, x_fake, y_fake, raw_real, raw_fake, G=G, z=z)


def discriminate(D: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the logits (B,) of real and generated images.

    One forward pass serves both, unless D has batch norm, whose statistics would mix the two. The images get no
    gradient.
    """
    x_real, x_fake = batch.x_real.detach(), batch.x_fake.detach()
    if any(isinstance(module, _BatchNorm) for module in D.modules()):
        return get_logits(D, x_real, batch.y_real), get_logits(D, x_fake, batch.y_fake)
    logits = get_logits(D, torch.cat([x_real, x_fake]), concatenate_labels(batch.y_real, batch.y_fake))
    return logits[: len(x_real)], logits[len(x_real) :]
