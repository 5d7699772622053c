"""What a run logs of its networks' Lipschitz constants: cheap numbers often, dear ones in the audit.

The tags say which kind a number is: `product` and `layers/*` are tracked estimates from below, `gradient_*` and `slope`
are observed at points, `certified` is an upper bound. A number that is not known (no bound for layer norm or
attention, say, and none of a diverged network) is left out.
"""

import math

import torch
from torch import Tensor, nn

from gan import rng
from gan.distributed import all_rows, own_rows
from gan.experiment import Experiment, join_labels, latents, own_latents, real_images
from metrics.lipschitz import (
    LipschitzTracker,
    certified_bound,
    input_gradient_norms,
    jacobian_singular_values,
    singular_values,
    stable_rank,
    steepest_slope,
)
from metrics.lipschitz.measuring import measuring

JACOBIAN_POINTS = 4  # latents at which G's Jacobian is taken
SLOPE_PAIRS = 16  # pairs from which the steepest slope of D is sought


def lipschitz_numbers(run: Experiment) -> dict[str, float]:
    """Return the norms of D's layers, their product, and its input gradients on real, fake and mixed images."""
    return layer_numbers("lipschitz/D", run.tracker, run.D, *_points(run))


def lipschitz_audit(run: Experiment) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the dear numbers: bounds, the steepest slope, G's Jacobian; and each layer's singular values by tag."""
    points, y = _points(run)
    numbers, spectra = audit_numbers("lipschitz/D", run.tracker, run.D, points, y, None if y is None else y[:1])
    z, labels = latents(run, JACOBIAN_POINTS, "jacobian")
    jacobian = jacobian_singular_values(run.ema.network, z.to(points.dtype), labels)
    of_generator = {
        "lipschitz/G/jacobian_max": jacobian[:, 0].max().item(),
        "lipschitz/G/jacobian_log_cond": (jacobian[:, 0] / jacobian[:, -1]).log().mean().item(),
    }
    return numbers | known(of_generator), spectra


def layer_numbers(
    tag: str, tracker: LipschitzTracker, function: nn.Module, x: Tensor, y: Tensor | None
) -> dict[str, float]:
    """Return, below `tag`, the norms of the tracked layers and their product, and input gradients at x (B, C, H, W).

    `function` gives one number an input: the tracked network itself, or what is looked at of it.
    """
    norms = tracker.measure()
    gradients = all_rows(input_gradient_norms(function, x, y))
    return known(
        {
            f"{tag}/product": tracker.product(norms),
            f"{tag}/gradient_max": gradients.max().item(),
            f"{tag}/gradient_mean": gradients.mean().item(),
            **{f"{tag}/layers/{path}": norm for path, norm in norms.items()},
        }
    )


def audit_numbers(
    tag: str, tracker: LipschitzTracker, function: nn.Module, x: Tensor, y: Tensor | None, label: Tensor | None = None
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return, below `tag`, the dear numbers of a tracked network, and each layer's singular values by tag.

    The certified bound is that of the network (given `label`, (1,), if it is conditional), the slope that of
    `function`, from where it is steepest at x (B, C, H, W).
    """
    network = tracker.model
    steepest, y_steepest = _steepest(function, x, y)
    shapes = tracker.input_shapes
    measured = {path: singular_values(network.get_submodule(path), shape) for path, shape in shapes.items()}
    spectra = {path: values for path, values in measured.items() if values is not None}
    with measuring(network):  # in evaluation, where batch norm has a bound
        certified = certified_bound(network, x.shape[1:], label)
    numbers = {
        f"{tag}/certified": certified,
        f"{tag}/slope": steepest_slope(function, steepest, y_steepest),
        **{f"{tag}/stable_rank/{path}": stable_rank(values) for path, values in spectra.items()},
    }
    return known(numbers), {f"{tag}/spectra/{path}": values for path, values in spectra.items()}


def _points(run: Experiment) -> tuple[Tensor, Tensor | None]:
    """Return real, fake and interpolated images (3 B, C, H, W) of this step, with labels for a conditional D.

    B is this process's share of the batch size.
    """
    size = run.config.train.batch_size
    dtype = next(run.D.parameters()).dtype
    x_real, y_real = real_images(run, run.images, size)
    x_real = x_real.to(dtype)
    z, y = own_latents(run, size, "lipschitz", run.step)
    with torch.no_grad():
        x_fake = run.ema.network(z.to(dtype), y)
    random = rng.generator(run.device, run.seed, "interpolation", run.step)
    t = own_rows(torch.rand(size, 1, 1, 1, generator=random, device=run.device, dtype=dtype))
    return torch.cat([x_real, x_fake, torch.lerp(x_real, x_fake, t)]), join_labels(y_real, y, y_real)


def _steepest(function: nn.Module, points: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return on every process the points of all of them where `function` is steepest, with their labels."""
    norms = input_gradient_norms(function, points, y)
    best = norms.topk(min(SLOPE_PAIRS, len(norms))).indices  # of its own, then of all
    norms, points = all_rows(norms[best]), all_rows(points[best])
    y = None if y is None else all_rows(y[best])
    best = norms.topk(min(SLOPE_PAIRS, len(norms))).indices
    return points[best], None if y is None else y[best]


def known(numbers: dict[str, float]) -> dict[str, float]:
    """Return the numbers that are finite."""
    return {tag: value for tag, value in numbers.items() if math.isfinite(value)}
