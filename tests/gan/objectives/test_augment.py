import pytest
import torch
from torch.nn import functional as F

from gan.objectives.augment import AUGMENTATIONS, augment, brightness, contrast, cutout, flip, saturation, translation


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.rand(64, 3, 16, 16, generator=generator(1)) * 2 - 1


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_augmentation_depends_on_generator_and_differs_between_images(images, name):
    first, second = (augment(images, [name], generator(0)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, augment(images, [name], generator(1)))
    same = augment(images[:1].expand(64, -1, -1, -1), [name], generator(0))
    assert len({image.numpy().tobytes() for image in same}) > (1 if name == "flip" else 10)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_gradients_reach_every_image(images, name):
    x = images.clone().requires_grad_(True)
    augment(x, [name], generator()).square().sum().backward()
    assert (x.grad.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize(
    ("names", "norm", "product"),
    [
        (["color"], 26.184898, 86.325157),
        (["translation"], 25.439505, 25.301138),
        (["cutout"], 24.169086, 82.995224),
        (["color", "translation", "cutout"], 21.668854, 15.024318),
    ],
)
def test_augmentations_equal_the_authors_code(names, norm, product):
    """DiffAugment_pytorch.py, commit 0b63395 of mit-han-lab/data-efficient-gans, after torch.manual_seed(0)."""
    x = torch.sin(torch.arange(1.0, 1486, dtype=torch.float64).square()).view(5, 3, 9, 11).float()
    augmented = augment(x, names, generator(0))
    assert augmented.norm().item() == pytest.approx(norm, rel=1e-6)
    assert (augmented * x.flip(3)).sum().item() == pytest.approx(product, rel=1e-5)


def test_no_augmentations_return_the_same_images(images):
    assert augment(images, [], generator()) is images


def test_brightness_adds_one_number_per_image(images):
    difference = (brightness(images, generator()) - images).flatten(1)
    assert difference.std(dim=1).max() < 1e-6
    assert -0.5 <= difference.min() < -0.3
    assert 0.3 < difference.max() <= 0.5


def test_saturation_and_contrast_keep_the_mean(images):
    torch.testing.assert_close(saturation(images, generator()).mean(1), images.mean(1))
    torch.testing.assert_close(contrast(images, generator()).mean((1, 2, 3)), images.mean((1, 2, 3)))
    gray = images[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(saturation(gray, generator()), gray)


def test_translation_is_at_most_an_eighth_of_the_side(images):
    shifted = translation(images, generator())
    offsets = set()
    for original, result in zip(images, shifted, strict=True):
        padded = F.pad(original, (2, 2, 2, 2))
        matches = [(y, x) for y in range(5) for x in range(5) if torch.equal(padded[:, y : y + 16, x : x + 16], result)]
        assert len(matches) == 1
        offsets.add(matches[0])
    assert {y for y, _ in offsets} == {x for _, x in offsets} == set(range(5))


def test_cutout_removes_a_square_with_half_the_side(images):
    x = images.sign() + 3  # nowhere zero
    removed = (cutout(x, generator()) == 0).all(dim=1)
    rows, cols = removed.any(dim=2).sum(dim=1), removed.any(dim=1).sum(dim=1)
    assert torch.equal(removed.flatten(1).sum(dim=1), rows * cols)  # a rectangle
    assert rows.max() == cols.max() == 8
    assert (rows >= 4).all()
    assert torch.equal(cutout(x, generator())[~removed[:, None].expand_as(x)], x[~removed[:, None].expand_as(x)])


def test_half_of_the_images_are_flipped(images):
    same = images[:1].expand(1000, -1, -1, -1)
    flipped = (flip(same, generator()) == images[0].flip(2)).flatten(1).all(dim=1)
    assert 450 < flipped.sum() < 550
    assert torch.equal(flip(same, generator())[~flipped], same[~flipped])
