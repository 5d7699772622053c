"""Feature space of the bundled digits: a small classifier, trained on the spot."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrics.extractors.base import Features, fingerprint


class DigitsClassifier(nn.Module):
    """A small convolutional classifier of gray digits (B, 1, H, W) in [-1, 1]: 64 features, 10 logits."""

    VERSION = 1  # part of the cache's key: raise it with any change of the network or its training

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
        """Return features (B, 64), of mean variance 1 over the training images, and logits (B, 10)."""
        hidden = self.convolutions(x)
        return hidden / self.feature_scale, self.head(hidden)


def train_digits_classifier(images: Tensor, labels: Tensor, seed: int = 0, epochs: int = 30) -> DigitsClassifier:
    """Train the classifier on gray images (N, 1, H, W) uint8 with labels (N,); a function of its arguments alone.

    Each epoch sees every image once, shifted by up to half a pixel of the original 8x8 scan.
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
    """Features of gray digits (B, 1, H, W), or of digits stacked as color planes (B, 3, H, W).

    A stack's features are those of its planes side by side (3 x 64), its 1000 classes 100 r + 10 g + b the products
    of the planes' classes.
    """

    def __init__(self, classifier: DigitsClassifier):
        self.classifier = classifier
        self.fingerprint = fingerprint(classifier.state_dict(), "digits", classifier.VERSION)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Map uint8 images (B, C, H, W), C being 1 or 3, to features (B, 64 C) and log-probabilities (B, 10^C)."""
        count, planes = images.shape[:2]
        x = images.flatten(0, 1)[:, None].float() / 127.5 - 1
        features, logits = self.classifier(x)
        per_plane = logits.double().log_softmax(dim=1).unflatten(0, (count, planes))
        joint = per_plane[:, 0]
        for plane in range(1, planes):
            joint = (joint[:, :, None] + per_plane[:, plane, None, :]).flatten(1)
        return Features(features.unflatten(0, (count, planes)).flatten(1), joint)
