"""What a run logs of its networks' Lipschitz constants: cheap numbers often, dear ones in the audit.

The tags say which kind a number is: `product` and `layers/*` are tracked estimates from below, `gradient_*` and `slope`
are observed at points, `certified` is an upper bound. A number that is not known (no bound for layer norm or
attention, say, and none of a diverged network) is left out.
"""

import torch
from torch import Tensor

from gan.evaluation.lipschitz import audit_numbers, finite_values, layer_numbers
from gan.runtime import rng
from gan.runtime.distributed import local_shard
from gan.training.experiment import Experiment, join_labels, latents, local_latents, real_images
from metrics.lipschitz import (
    jacobian_singular_values,
)

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
    return numbers | finite_values(of_generator), spectra


def _points(run: Experiment) -> tuple[Tensor, Tensor | None]:
    """Return real, fake and interpolated images (3 B, C, H, W) of this step, with labels for a conditional D.

    B is this process's share of the batch size.
    """
    size = run.config.train.batch_size
    dtype = next(run.D.parameters()).dtype
    x_real, y_real = real_images(run, run.images, size)
    x_real = x_real.to(dtype)
    z, y = local_latents(run, size, "lipschitz", run.step)
    with torch.no_grad():
        x_fake = run.ema.network(z.to(dtype), y)
    random = rng.generator(run.device, run.seed, "interpolation", run.step)
    t = local_shard(torch.rand(size, 1, 1, 1, generator=random, device=run.device, dtype=dtype))
    return torch.cat([x_real, x_fake, torch.lerp(x_real, x_fake, t)]), join_labels(y_real, y, y_real)
