import pytest
import torch

from gan.data.labels import LabelDistribution, count_labels


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_labels_have_the_frequencies_of_the_counts():
    y = LabelDistribution([10, 0, 1, 5]).draw(160_000, generator())
    assert (y.shape, y.dtype) == ((160_000,), torch.int64)
    counts = y.bincount(minlength=4).tolist()
    assert counts[1] == 0
    assert counts == pytest.approx([100_000, 0, 10_000, 50_000], abs=500)  # 2.5 standard deviations at most


def test_labels_are_a_function_of_the_seed():
    draw = LabelDistribution([3, 1]).draw
    assert torch.equal(draw(100, generator()), draw(100, generator()))
    assert not torch.equal(draw(100, generator()), draw(100, generator(1)))


def test_balanced_data_and_uniform_labels_are_drawn_as_by_randint():
    """Runs with balanced classes are thus the same as with uniform labels."""
    labels = torch.arange(70) % 7
    for frequencies in ("data", "uniform"):
        y = LabelDistribution(count_labels(labels, 7, frequencies)).draw(1000, generator())
        assert torch.equal(y, torch.randint(7, (1000,), generator=generator()))


@pytest.mark.parametrize(("frequencies", "expected"), [("data", [5, 0, 2, 1]), ("uniform", [1, 1, 1, 1])])
def test_counts_are_those_of_the_labels_or_equal(frequencies, expected):
    labels = torch.tensor([0] * 10 + [2] * 4 + [3] * 2)
    assert count_labels(labels, 4, frequencies) == expected
