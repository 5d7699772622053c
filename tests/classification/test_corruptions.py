import pytest
import torch
from scipy.ndimage import gaussian_filter

from classification.corruptions import CORRUPTIONS, SEVERITIES, corrupt


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(40, 3, 32, 32, generator=generator(5))


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_corrupted_images_are_in_range_and_depend_on_generator(name, severity, images):
    corrupted = corrupt(images, name, severity, generator())
    assert corrupted.shape == images.shape
    assert corrupted.min() >= 0
    assert corrupted.max() <= 1
    assert torch.equal(corrupted, corrupt(images, name, severity, generator()))
    assert torch.equal(corrupted, corrupt(images, name, severity, generator(1))) == (name == "gaussian_blur")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_distance_increases_with_severity(name, images):
    distances = [(corrupt(images, name, s, generator()) - images).square().mean().item() for s in SEVERITIES]
    assert distances[0] > 0
    assert distances == sorted(distances)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blur_equals_scipy(severity):
    images = torch.rand(2, 3, 9, 12, generator=generator(3), dtype=torch.float64)
    std = (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1]
    expected = gaussian_filter(images.numpy(), (0, 0, std, std), mode="nearest", truncate=4.0)
    torch.testing.assert_close(corrupt(images, "gaussian_blur", severity, generator()), torch.from_numpy(expected))


def test_noise_has_published_strength():
    gray = torch.full((20, 1, 100, 100), 0.5)
    assert (corrupt(gray, "gaussian_noise", 5, generator()) - gray).std().item() == pytest.approx(0.10, rel=0.02)
    shot = corrupt(gray, "shot_noise", 1, generator())
    assert shot.mean().item() == pytest.approx(0.5, rel=0.01)
    assert shot.var().item() == pytest.approx(0.5 / 500, rel=0.03)
    impulses = corrupt(gray, "impulse_noise", 4, generator())
    assert (impulses == 0).float().mean().item() == pytest.approx(0.025, rel=0.05)
    assert (impulses == 1).float().mean().item() == pytest.approx(0.025, rel=0.05)
