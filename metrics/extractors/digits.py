"""Features of digits from a small classifier, which `train_digits_classifier` trains."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrics.extractors.base import Features, check_images, compute_fingerprint


class DigitsClassifier(nn.Module):
    """A small convolutional classifier for grayscale digits (B, 1, H, W) in [-1, 1], with 64 features and 10 logits."""

    VERSION = 1  # part of the cache key; increment it if the network or its training changes

    feature_scale: Tensor

    def __init__(self):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(),
            nn.Linear(64 * 16, 64), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(64, 10)
        self.register_buffer("feature_scale", torch.ones(()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, 64), scaled to a mean variance of 1 on the training images, and logits (B, 10)."""
        hidden = self.convolutions(x)
        return hidden / self.feature_scale, self.head(hidden)


def train_digits_classifier(images: Tensor, labels: Tensor, seed: int = 0, epochs: int = 30) -> DigitsClassifier:
    """Train a classifier on uint8 images (N, 1, H, W) with labels (N,).

    Each batch is shifted at random by up to half a pixel of the original 8x8 scans. The result depends only on the
    arguments. The global random state does not change.
    """
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        classifier = DigitsClassifier()
        shift = images.shape[-1] // 16
        batch_size = min(64, len(images))
        steps = epochs * (len(images) // batch_size)
        optimizer = torch.optim.Adam(classifier.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(epochs):
            for index in torch.randperm(len(images), generator=random).split(batch_size):
                if len(index) < batch_size:
                    continue
                dy, dx = torch.randint(-shift, shift + 1, (2,), generator=random).tolist()
                x = torch.roll(images[index].float() / 127.5 - 1, (dy, dx), dims=(2, 3))
                loss = F.cross_entropy(classifier(x)[1], labels[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    classifier.eval().requires_grad_(False)
    classifier.feature_scale.copy_(classifier(images.float() / 127.5 - 1)[0].var(dim=0).mean().sqrt())
    return classifier


class DigitsExtractor:
    """Features of grayscale digits (B, 1, H, W) or of three digits stacked as color channels (B, 3, H, W).

    For stacked digits, the features of the channels are concatenated. The class of a stack with the digits r, g and b
    is 100 r + 10 g + b, and its probability is the product of their probabilities.
    """

    def __init__(self, classifier: DigitsClassifier):
        self.classifier = classifier
        self.fingerprint = compute_fingerprint(classifier.state_dict(), "digits", classifier.VERSION)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Map uint8 images (B, C, H, W), where C is 1 or 3, to features (B, 64 C) and log-probabilities (B, 10^C)."""
        check_images(images)
        count, channels = images.shape[:2]
        x = images.flatten(0, 1)[:, None].float() / 127.5 - 1
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
