from pathlib import Path

import pytest
import torch
from PIL import Image


def random_images(count: int, contrast: float, seed: int) -> torch.Tensor:
    """Return uint8 images (count, 3, 32, 32): smooth patterns with noise and random brightness."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 6, 6, generator=random) + torch.randn(count, 3, 1, 1, generator=random)
    smooth = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic")
    noise = torch.rand(count, 3, 1, 1, generator=random) * torch.randn(count, 3, 32, 32, generator=random)
    return (128 + contrast * (smooth + noise / 2)).clamp(0, 255).byte()


@pytest.fixture(scope="session")
def image_sets(tmp_path_factory) -> list[tuple[Path, torch.Tensor]]:
    """The sets "fake" and "real", each as a folder of PNG files and as a tensor (72, 3, 32, 32)."""
    sets = []
    for name, contrast, seed in (("fake", 30, 0), ("real", 85, 1)):
        folder, images = tmp_path_factory.mktemp(name), random_images(72, contrast, seed)
        for index, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index:03d}.png")
        sets.append((folder, images))
    return sets
