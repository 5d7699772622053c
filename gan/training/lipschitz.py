"""The Lipschitz numbers that the training of a GAN logs. `gan.evaluation.lipschitz` describes the tags."""

import math
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from gan.evaluation.lipschitz import audit_lipschitz, finite_values, measure_lipschitz
from gan.runtime.cuda_graphs import CaptureError
from gan.runtime.distributed import local_shard
from gan.training.experiment import Experiment
from gan.training.inputs import concatenate_labels
from metrics.lipschitz import jacobian_singular_values
from metrics.lipschitz.attempt import attempt
from metrics.lipschitz.tracker import Spaces
from models.calls import call_network

JACOBIAN_POINTS = 4  # latents at which the Jacobian of G is computed


def lipschitz_numbers(experiment: Experiment) -> dict[str, float]:
    """Return by tag the norms of D's layers, their product, and the input gradients of D.

    The generated images are those of the average with the batch norm statistics of the live generator: its own ones,
    which an audit uses, take longer to compute than all of these numbers.
    """
    run = partial(run_measurement, experiment)
    points = draw_points(experiment, experiment.ema.network)
    return measure_lipschitz("lipschitz/D", experiment.tracker, experiment.D, *points, run=run)


def run_measurement(experiment: Experiment, launch: Callable[[], Spaces]) -> Spaces:
    """Call `launch`, or replay a CUDA graph of it. If it cannot be captured, it is called at all later times."""
    if experiment.tracker_graphs is not None:
        try:
            return experiment.tracker_graphs.run("norms", launch)
        except CaptureError as error:
            warnings.warn(f"the layer norms are measured without a CUDA graph, which is slower: {error}", stacklevel=2)
            experiment.tracker_graphs = None
    return launch()


def lipschitz_audit(experiment: Experiment) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the numbers of a full audit by tag (certified bound, steepest slope and stable ranks of D; Jacobian of G),
    and the singular values of each layer of D.
    """
    G = experiment.evaluated_generator()
    points, y = draw_points(experiment, G)
    label = None if y is None else y[:1]
    numbers, spectra = audit_lipschitz("lipschitz/D", experiment.tracker, experiment.D, points, y, label)
    z, labels = experiment.inputs.latents(JACOBIAN_POINTS, "jacobian")
    measure = partial(jacobian_singular_values, G, z.to(points.dtype), labels)
    jacobian = attempt("the Jacobian of G", measure, torch.full((1, 1), math.nan))
    numbers |= finite_values(
        {
            "lipschitz/G/jacobian_max": jacobian[:, 0].max().item(),
            "lipschitz/G/jacobian_log_cond": (jacobian[:, 0] / jacobian[:, -1]).log().mean().item(),
        }
    )
    return numbers, spectra


def draw_points(experiment: Experiment, G: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return real images, images of G and interpolations (3 B, C, H, W) of this step, and labels of a conditional GAN.

    B is batch_size / world_size. The images have the dtype of D.
    """
    inputs, step, size = experiment.inputs, experiment.step, experiment.config.train.batch_size
    dtype = next(experiment.D.parameters()).dtype
    x_real, y_real = inputs.real_images(experiment.images, size)
    x_real = x_real.to(dtype)
    z, y = inputs.training_latents(size, "lipschitz", step)
    with torch.no_grad():
        x_fake = call_network(G, z.to(dtype), y)
    random = inputs.generator("interpolation", step)
    t = local_shard(torch.rand(size, 1, 1, 1, generator=random, device=random.device, dtype=dtype))
    points = torch.cat([x_real, x_fake, torch.lerp(x_real, x_fake, t)])
    return points, concatenate_labels(y_real, y, y_real)
