from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image


@pytest.fixture(scope="session")
def inception_state_dict() -> dict[str, torch.Tensor]:
    """Weights named and shaped as the published ones, drawn so that activations keep their variance."""
    with torch.device("meta"):
        shapes = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False).state_dict()
    random = torch.Generator().manual_seed(0)

    def draw(name: str, shape: torch.Size) -> torch.Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(1)
        if name.endswith("conv.weight"):
            weight = torch.randn(shape, generator=random) * (2.2 / shape[1:].numel()) ** 0.5
            return weight - weight.mean(dim=(1, 2, 3), keepdim=True)  # else the mean activation kills half the units
        if name == "fc.weight":
            return torch.randn(shape, generator=random) * 0.5
        if name.endswith(("running_var", "bn.weight")):
            return torch.empty(shape).uniform_(0.8, 1.2, generator=random)
        return torch.randn(shape, generator=random) * 0.1

    return {name: draw(name, tensor.shape) for name, tensor in shapes.items()}


@pytest.fixture(scope="session")
def inception_file(inception_state_dict, tmp_path_factory) -> Path:
    """A weights file in the published format, as torch-fidelity and pytorch-fid load it."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(inception_state_dict, path)
    return path


def random_images(count: int, contrast: float, seed: int) -> torch.Tensor:
    """Return images (count, 3, 32, 32) uint8 of various brightness, smooth but for some noise."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 6, 6, generator=random) + torch.randn(count, 3, 1, 1, generator=random)
    smooth = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic")
    noise = torch.rand(count, 3, 1, 1, generator=random) * torch.randn(count, 3, 32, 32, generator=random)
    return (128 + contrast * (smooth + noise / 2)).clamp(0, 255).byte()


@pytest.fixture(scope="session")
def image_sets(tmp_path_factory) -> list[tuple[Path, torch.Tensor]]:
    """Two sets of images, "fake" and "real", as folders of PNG files and as tensors (72, 3, 32, 32)."""
    sets = []
    for name, contrast, seed in (("fake", 30, 0), ("real", 60, 1)):
        folder, images = tmp_path_factory.mktemp(name), random_images(72, contrast, seed)
        for index, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index:03d}.png")
        sets.append((folder, images))
    return sets
