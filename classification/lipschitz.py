"""What a run logs of its classifier's Lipschitz constant, by the tags and kinds of `gan.training.lipschitz`.

Bounds and norms are of the whole map from an image in [0, 1] to all logits; what is observed is the gradient of the
true class's logit, at test images, which is never above the bound of the whole map.
"""

import torch
from torch import Tensor, nn

from classification.experiment import Experiment
from gan.compare.experiment_types import CLASSIFIER
from gan.evaluation.lipschitz import audit_numbers, layer_numbers

POINTS = 128  # test images, evenly spread
TAG = f"lipschitz/{CLASSIFIER.network}"


class LabelledLogit(nn.Module):
    """x (B, C, H, W), y (B,) -> the logit of class y, (B,)."""

    def __init__(self, classifier: nn.Module):
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return one logit an image."""
        return self.classifier(x).gather(1, y[:, None])[:, 0]


def lipschitz_numbers(run: Experiment) -> dict[str, float]:
    """Return the norms of the layers, their product, and the logits' gradients at test images."""
    return layer_numbers(TAG, run.tracker, LabelledLogit(run.network), *_points(run))


def lipschitz_audit(run: Experiment) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the dear numbers, the certified bound and the steepest slope, and each layer's singular values by tag."""
    return audit_numbers(TAG, run.tracker, LabelledLogit(run.network), *_points(run))


def _points(run: Experiment) -> tuple[Tensor, Tensor]:
    test = run.sets.test
    spread = torch.linspace(0, len(test) - 1, min(POINTS, len(test))).long()
    return test.images[spread].to(run.device).float() / 255, test.labels[spread].to(run.device)
