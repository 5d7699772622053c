"""What a run logs of its networks' Lipschitz constants: cheap numbers often, dear ones in the audit.

The tags say which kind a number is: `product` and `layers/*` are tracked estimates from below, `gradient_*` and `slope`
are observed at points, `certified` is an upper bound. A number that is not known (no bound for layer norm or
attention, say, and none of a diverged network) is left out.
"""

import math

import torch
from torch import Tensor

from gan import rng
from gan.experiment import Experiment, latents, real_images
from metrics.lipschitz import (
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
    norms = run.tracker.measure()
    points, y = _points(run)
    gradients = input_gradient_norms(run.D, points, y)
    return _known(
        {
            "lipschitz/D/product": run.tracker.product(norms),
            "lipschitz/D/gradient_max": gradients.max().item(),
            "lipschitz/D/gradient_mean": gradients.mean().item(),
            **{f"lipschitz/D/layers/{path}": norm for path, norm in norms.items()},
        }
    )


def lipschitz_audit(run: Experiment) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the dear numbers: bounds, the steepest slope, G's Jacobian; and each layer's singular values by tag."""
    points, y = _points(run)
    steepest = input_gradient_norms(run.D, points, y).topk(min(SLOPE_PAIRS, len(points))).indices
    z, labels = latents(run, JACOBIAN_POINTS, "jacobian")
    jacobian = jacobian_singular_values(run.ema.network, z.to(points.dtype), labels)
    shapes = run.tracker.input_shapes
    measured = {path: singular_values(run.D.get_submodule(path), shape) for path, shape in shapes.items()}
    spectra = {path: values for path, values in measured.items() if values is not None}
    with measuring(run.D):  # in evaluation, where batch norm has a bound
        certified = certified_bound(run.D, points.shape[1:], None if y is None else y[:1])
    numbers = {
        "lipschitz/D/certified": certified,
        "lipschitz/D/slope": steepest_slope(run.D, points[steepest], None if y is None else y[steepest]),
        "lipschitz/G/jacobian_max": jacobian[:, 0].max().item(),
        "lipschitz/G/jacobian_log_cond": (jacobian[:, 0] / jacobian[:, -1]).log().mean().item(),
        **{f"lipschitz/D/stable_rank/{path}": stable_rank(values) for path, values in spectra.items()},
    }
    return _known(numbers), {f"lipschitz/D/spectra/{path}": values for path, values in spectra.items()}


def _points(run: Experiment) -> tuple[Tensor, Tensor | None]:
    """Return real, fake and interpolated images (3 B, C, H, W) of this step, with labels for a conditional D."""
    size = run.config.train.batch_size
    dtype = next(run.D.parameters()).dtype
    x_real, y_real = real_images(run, run.images, size)
    x_real = x_real.to(dtype)
    z, y = latents(run, size, "lipschitz", run.step)
    with torch.no_grad():
        x_fake = run.ema.network(z.to(dtype), y)
    random = rng.generator(run.device, run.seed, "interpolation", run.step)
    t = torch.rand(size, 1, 1, 1, generator=random, device=run.device, dtype=dtype)
    labels = None if y is None else torch.cat([y_real, y, y_real])
    return torch.cat([x_real, x_fake, torch.lerp(x_real, x_fake, t)]), labels


def _known(numbers: dict[str, float]) -> dict[str, float]:
    return {tag: value for tag, value in numbers.items() if math.isfinite(value)}
