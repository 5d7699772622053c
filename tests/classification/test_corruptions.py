import pytest
import torch
from scipy.ndimage import gaussian_filter

from classification.corruptions import CORRUPTIONS, SEVERITIES, corrupt


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(40, 3, 32, 32, generator=seeded(5))


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_images_stay_in_range_and_the_seed_decides(name, severity, images):
    corrupted = corrupt(images, name, severity, seeded())
    assert corrupted.shape == images.shape
    assert corrupted.min() >= 0
    assert corrupted.max() <= 1
    assert torch.equal(corrupted, corrupt(images, name, severity, seeded()))
    assert torch.equal(corrupted, corrupt(images, name, severity, seeded(1))) == (name == "gaussian_blur")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_higher_severity_changes_more(name, images):
    distances = [(corrupt(images, name, s, seeded()) - images).square().mean().item() for s in SEVERITIES]
    assert distances[0] > 0
    assert distances == sorted(distances)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_blur_is_scipys(severity):
    images = torch.rand(2, 3, 9, 12, generator=seeded(3), dtype=torch.float64)
    deviation = (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1]
    expected = gaussian_filter(images.numpy(), (0, 0, deviation, deviation), mode="nearest", truncate=4.0)
    torch.testing.assert_close(corrupt(images, "gaussian_blur", severity, seeded()), torch.from_numpy(expected))


def test_the_noise_has_the_published_strength():
    gray = torch.full((20, 1, 100, 100), 0.5)
    assert (corrupt(gray, "gaussian_noise", 5, seeded()) - gray).std().item() == pytest.approx(0.10, rel=0.02)
    shot = corrupt(gray, "shot_noise", 1, seeded())
    assert shot.mean().item() == pytest.approx(0.5, rel=0.01)
    assert shot.var().item() == pytest.approx(0.5 / 500, rel=0.03)
    impulses = corrupt(gray, "impulse_noise", 4, seeded())
    assert (impulses == 0).float().mean().item() == pytest.approx(0.025, rel=0.05)
    assert (impulses == 1).float().mean().item() == pytest.approx(0.025, rel=0.05)
