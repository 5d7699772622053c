import pytest
import torch

from gan.data.datasets.digits import Digits, StackedDigits


@pytest.fixture(scope="module")
def digits():
    return Digits(resolution=8).load()


def test_splits_have_all_1797_scans_without_overlap(digits):
    train, held_out = ({image.numpy().tobytes() for image in part.images} for part in (digits.train, digits.held_out))
    assert (len(digits.train), len(digits.held_out)) == (1437, 360)
    assert train.isdisjoint(held_out)


def test_splits_are_stratified(digits):
    for part, size in ((digits.train, 1437), (digits.held_out, 360)):
        counts = part.labels.bincount(minlength=10)
        assert len(counts) == part.num_classes == 10
        assert counts.min() > 0.09 * size


@pytest.mark.parametrize("resolution", [8, 16, 32])
def test_digits_use_the_range_of_uint8_at_any_resolution(resolution):
    images = Digits(resolution=resolution).load().train.images
    assert images.shape == (1437, 1, resolution, resolution)
    assert images.dtype == torch.uint8
    assert images.min() == 0
    assert images.max() >= 250


def test_splits_are_reproducible(digits):
    again = Digits(resolution=8).load()
    assert torch.equal(again.train.images, digits.train.images)
    assert torch.equal(again.held_out.labels, digits.held_out.labels)


def test_label_of_a_stack_consists_of_its_digits(digits):
    stacks = StackedDigits(resolution=8, size=300, held_out_size=200).load()
    assert StackedDigits.stacked
    for part, scans, size in ((stacks.train, digits.train, 300), (stacks.held_out, digits.held_out, 200)):
        labels = {
            image.numpy().tobytes(): label for image, label in zip(scans.images, scans.labels.tolist(), strict=True)
        }
        assert part.images.shape == (size, 3, 8, 8)
        for image, label in zip(part.images, part.labels.tolist(), strict=True):
            r, g, b = (labels[plane.numpy().tobytes()] for plane in image)
            assert label == 100 * r + 10 * g + b
