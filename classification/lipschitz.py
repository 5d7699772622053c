"""The Lipschitz numbers that the training of a classifier logs. `gan.evaluation.lipschitz` describes the tags.

Norms and bounds are those of the map from an image in [0, 1] to all logits. Gradients and slopes are those of the logit
of the true class at test images; they never exceed the bound of the whole map.
"""

import torch
from torch import Tensor, nn

from classification.experiment import Experiment
from gan.evaluation.lipschitz import audit_lipschitz, measure_lipschitz

POINTS = 128  # test images, evenly spaced
TAG = "lipschitz/classifier"


class LabelledLogit(nn.Module):
    """x (B, C, H, W), y (B,) -> logit of class y, (B,)."""

    def __init__(self, classifier: nn.Module):
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return one logit for each image."""
        return self.classifier(x).gather(1, y[:, None])[:, 0]


def lipschitz_numbers(experiment: Experiment) -> dict[str, float]:
    """Return by tag the norms of the layers, their product, and the input gradients at test images."""
    return measure_lipschitz(TAG, experiment.tracker, LabelledLogit(experiment.network), *get_points(experiment))


def lipschitz_audit(experiment: Experiment) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return by tag the certified bound, the steepest slope found and stable ranks; and singular values of layers."""
    return audit_lipschitz(TAG, experiment.tracker, LabelledLogit(experiment.network), *get_points(experiment))


def get_points(experiment: Experiment) -> tuple[Tensor, Tensor]:
    """Return test images (N, C, H, W) in [0, 1] and their labels (N,)."""
    test = experiment.sets.test
    rows = torch.linspace(0, len(test) - 1, min(POINTS, len(test))).long()
    return test.images[rows].to(experiment.device).float() / 255, test.labels[rows].to(experiment.device)
