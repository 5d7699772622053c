"""Warnings about a GAN that has stopped learning without diverging: a saturated discriminator, or mode collapse."""

from functools import cached_property

import torch
from torch import Tensor

from gan.objectives.losses import Loss

SATURATED = 0.01  # D is saturated if its loss is below this fraction of its loss at logits of 0
COLLAPSED = 0.1  # modes have collapsed if the distance of samples is below this fraction of that of real images
NUM_REAL = 64  # real images whose distance is measured
PERSISTENCE = {"saturation": 5, "collapse": 2}  # consecutive checks after which a warning is given


class TrainingWarnings:
    """Checks the loss of D at log entries, and the samples at evaluations.

    Each check returns a message when a problem has persisted for some checks, and None otherwise: a problem is reported
    once, until it disappears and comes back.

    Args:
        loss: loss of the run.
        real_images: training images (N, C, H, W) uint8.
    """

    def __init__(self, loss: Loss, real_images: Tensor):
        self._loss = loss
        self._real_images = real_images
        self._consecutive = dict.fromkeys(PERSISTENCE, 0)

    def check_loss(self, step: int, loss: float) -> str | None:
        """Return a warning when D's loss is nearly 0: then its gradient is, and G no longer learns.

        Losses without a lower bound, such as Wasserstein's, are never saturated: they are 0 when all logits are 0.
        """
        undecided = self._loss.discriminator(torch.zeros(1), torch.zeros(1)).item()
        if not self._has_persisted("saturation", 0 <= loss < SATURATED * undecided):
            return None
        return (
            f"step {step}: D is saturated, its loss ({loss:.2g}) hardly trains G; "
            "try a normalization or penalty of D, or a smaller learning rate for D"
        )

    def check_samples(self, step: int, samples: Tensor, images_seen: int) -> str | None:
        """Return a warning when most samples (N, C, H, W) uint8 have a nearly identical other sample.

        The first epoch does not count, because an untrained generator maps all latents to similar images.
        `images_seen` is the number of real images that D has been trained on.
        """
        has_learned = images_seen >= len(self._real_images)
        collapsed = has_learned and nearest_distance(samples) < COLLAPSED * self._real_distance
        if not self._has_persisted("collapse", collapsed):
            return None
        return (
            f"step {step}: mode collapse, most samples are nearly identical to another sample; "
            "see samples/, and the metrics `modes` and `recall`"
        )

    @cached_property
    def _real_distance(self) -> float:
        spread = torch.linspace(0, len(self._real_images) - 1, NUM_REAL).long().unique()
        return nearest_distance(self._real_images[spread])

    def _has_persisted(self, problem: str, is_present: bool) -> bool:
        self._consecutive[problem] = self._consecutive[problem] + 1 if is_present else 0
        return self._consecutive[problem] == PERSISTENCE[problem]


def nearest_distance(images: Tensor) -> float:
    """Return the median root mean square distance of images (N, C, H, W) uint8 to their nearest other image."""
    x = images.flatten(1).double()
    distances = torch.cdist(x, x).fill_diagonal_(torch.inf)
    return distances.min(dim=1).values.median().item() / x.shape[1] ** 0.5
