"""Train the digits classifier of the metrics: python -m gan.evaluation.train_digits_classifier FILE.safetensors.

The file that the metrics use is part of the package, because the last digits of the weights depend on the processor and
on the number of threads. The command is the record of how it was made. It uses one thread.
"""

import argparse
import hashlib
import sys
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from gan.data import to_float
from gan.data.datasets.digits import Digits
from gan.runtime.command import Parser, exit_code
from gan.runtime.errors import UserError
from gan.runtime.text import printable
from metrics.extractors.digits import RESOLUTION, DigitsClassifier


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 after a user error."""
    parser = Parser(
        prog="python -m gan.evaluation.train_digits_classifier",
        description="Train the classifier of the digits metrics.",
    )
    parser.add_argument("file", type=Path, metavar="FILE.safetensors", help="file to write")
    return exit_code(lambda: run(parser.parse_args(argv)))


def run(options: argparse.Namespace) -> None:
    """Train the classifier, write its weights and print their SHA-256."""
    torch.set_num_threads(1)
    train = Digits(resolution=RESOLUTION).load().train
    content = safetensors.torch.save(train_digits_classifier(train.images, train.labels).state_dict())
    try:
        options.file.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write to {options.file}: {error.strerror}") from None
    print(f"{printable(options.file)}: sha256 {hashlib.sha256(content).hexdigest()}")


def train_digits_classifier(images: Tensor, labels: Tensor, seed: int = 0, epochs: int = 30) -> DigitsClassifier:
    """Train a classifier on uint8 images (N, 1, 16, 16) with labels (N,).

    Each batch is shifted at random by up to one pixel, which is half a pixel of the original 8x8 scans. The result
    depends only on the arguments, the processor and the number of threads. The global random state does not change.
    """
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        classifier = DigitsClassifier()
        batch_size = min(64, len(images))
        steps = epochs * (len(images) // batch_size)
        optimizer = torch.optim.Adam(classifier.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(epochs):
            for index in torch.randperm(len(images), generator=random).split(batch_size):
                if len(index) < batch_size:
                    continue
                dy, dx = torch.randint(-1, 2, (2,), generator=random).tolist()
                x = torch.roll(to_float(images[index]), (dy, dx), dims=(2, 3))
                loss = F.cross_entropy(classifier(x)[1], labels[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    classifier.eval().requires_grad_(False)
    classifier.feature_scale.copy_(classifier(to_float(images))[0].var(dim=0).mean().sqrt())
    return classifier


if __name__ == "__main__":
    sys.exit(main())
