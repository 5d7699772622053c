"""What a GAN shows when it learns nothing more without diverging: said in a line when it begins."""

from functools import cached_property

import torch
from torch import Tensor

from gan.training.experiment import Experiment

SATURATED = 0.01  # of the loss of a D that gives every image the logit 0
COLLAPSED = 0.1  # of the distance between real images
NUM_REAL = 64
ENTRIES = {"saturation": 5, "collapse": 2}  # log entries, and evaluations, in a row before a symptom is one


class Symptoms:
    """Watches a saturated discriminator and mode collapse over the log entries and evaluations of a run."""

    def __init__(self, run: Experiment):
        self._run = run
        self._in_a_row = dict.fromkeys(ENTRIES, 0)

    def check_loss(self, loss: float) -> str | None:
        """Return what to say of D's loss at a log entry, if anything has begun there.

        D is saturated when its loss is next to nothing: then its gradient is, and G learns nothing from it. A loss
        that knows no such end, as Wasserstein's, is 0 for an undecided D.
        """
        undecided = self._run.loss.discriminator(torch.zeros(1), torch.zeros(1)).item()
        if not self._begins("saturation", 0 <= loss < SATURATED * undecided):
            return None
        return (
            f"step {self._run.step}: D is saturated, its loss ({loss:.2g}) hardly moves G; "
            "a normalization or penalty of D, or a smaller learning rate of it, may help"
        )

    def check_samples(self, images: Tensor) -> str | None:
        """Return what to say of generated images (N, C, H, W) uint8 at an evaluation, if anything has begun there.

        Modes have collapsed when most images have another one much closer by than real images have. The first epoch
        does not count: a generator that has learned nothing yet makes one image of all latents.
        """
        has_learned = self._run.images >= len(self._run.sampler.images)
        is_there = has_learned and nearest_distance(images) < COLLAPSED * self._real_distance
        if not self._begins("collapse", is_there):
            return None
        return (
            f"step {self._run.step}: mode collapse, most samples are nearly the same as another one; "
            "see samples/, and the modes and recall metrics"
        )

    @cached_property
    def _real_distance(self) -> float:
        images = self._run.sampler.images
        return nearest_distance(images[torch.linspace(0, len(images) - 1, NUM_REAL).long().unique()])

    def _begins(self, symptom: str, is_there: bool) -> bool:
        self._in_a_row[symptom] = self._in_a_row[symptom] + 1 if is_there else 0
        return self._in_a_row[symptom] == ENTRIES[symptom]


def nearest_distance(images: Tensor) -> float:
    """Return the median over images (N, C, H, W) uint8 of the root mean square distance to the nearest other one."""
    x = images.flatten(1).double()
    distances = torch.cdist(x, x).fill_diagonal_(torch.inf)
    return distances.min(dim=1).values.median().item() / x.shape[1] ** 0.5
