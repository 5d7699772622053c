"""Features of digits from a small classifier, whose weights are part of this package."""

import hashlib
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrics.extractors.base import Features, check_images, compute_fingerprint

WEIGHTS = Path(__file__).with_name("digits.safetensors")
"""Written by `python -m gan.evaluation.train_digits_classifier FILE`"""
SHA256 = "2e7191e28057e12ab2935e2a2100104e217033f4026fca9331178112dba4befd"
RESOLUTION = 16


class DigitsClassifier(nn.Module):
    """A small convolutional classifier for gray digits (B, 1, 16, 16) in [-1, 1], with 64 features and 10 logits."""

    feature_scale: Tensor

    def __init__(self):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(64 * 16, 64), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(64, 10)
        self.register_buffer("feature_scale", torch.ones(()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, 64), scaled to a mean variance of 1 on the training images, and logits (B, 10)."""
        hidden = self.convolutions(x)
        return hidden / self.feature_scale, self.head(hidden)


def load_digits_classifier(path: Path = WEIGHTS) -> DigitsClassifier:
    """Return the classifier of the metrics. Raises ValueError if the file is missing or is not the published one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read the weights of the digits classifier {path}: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(f"{path} is not the digits classifier of this version; install the toolkit again")
    classifier = DigitsClassifier()
    classifier.load_state_dict(safetensors.torch.load(content))
    return classifier.eval().requires_grad_(False)


class DigitsExtractor:
    """Features of gray digits (B, 1, H, W) or of three digits stacked as color channels (B, 3, H, W).

    Images of another size are resized to 16 x 16 by antialiased bilinear interpolation. For stacked digits, the
    features of the channels are concatenated. The class of a stack with the digits r, g and b is 100 r + 10 g + b, and
    its probability is the product of their probabilities.
    """

    def __init__(self, classifier: DigitsClassifier):
        self.classifier = classifier
        self.fingerprint = compute_fingerprint(classifier.state_dict(), "digits", RESOLUTION)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Map uint8 images (B, C, H, W), where C is 1 or 3, to features (B, 64 C) and log-probabilities (B, 10^C)."""
        check_images(images)
        count, channels = images.shape[:2]
        x = images.flatten(0, 1)[:, None].float() / 127.5 - 1
        if x.shape[2:] != (RESOLUTION, RESOLUTION):
            x = F.interpolate(x, (RESOLUTION, RESOLUTION), mode="bilinear", antialias=True)
        features, logits = self.classifier(x)
        log_p = logits.double().log_softmax(dim=1).unflatten(0, (count, channels))
        joint_log_p = log_p[:, 0]
        for channel in range(1, channels):
            joint_log_p = (joint_log_p[:, :, None] + log_p[:, channel, None, :]).flatten(1)
        return Features(features.unflatten(0, (count, channels)).flatten(1), joint_log_p)

    @property
    def origin(self) -> dict[str, str]:
        """Name and hash of the weights."""
        return {"extractor": "digits", "weights": compute_fingerprint(self.classifier.state_dict())}
