import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan.config import Config
from gan.data import ImageData, Sampler, SamplerOptions
from gan.data.datasets.digits import Digits
from gan.data.subset import stratified_split, subset_rows
from gan.training.build import build_inputs

CPU = torch.device("cpu")


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0.001, 1), st.integers(0, 3))
def test_each_class_keeps_its_fraction_and_no_row_is_lost(labels, fraction, seed):
    labels = torch.tensor(labels)
    rows = torch.arange(len(labels))[:: 1 + seed % 2]
    chosen, rest = stratified_split(labels, rows, fraction, seed, "test")
    assert torch.equal(torch.cat([chosen, rest]).sort().values, rows)
    total = torch.bincount(labels[rows], minlength=5)
    kept = torch.bincount(labels[chosen], minlength=5)
    for n, k in zip(total.tolist(), kept.tolist(), strict=True):
        assert k == (max(1, round(torch.tensor(n * fraction).round().item())) if n else 0)


def test_smaller_subset_is_part_of_a_larger_one():
    labels = torch.arange(1000) % 7
    subsets = [set(subset_rows(labels, fraction, 0).tolist()) for fraction in (0.1, 0.3, 0.7)]
    assert subsets[0] < subsets[1] < subsets[2]
    assert subsets[0] != set(subset_rows(labels, 0.1, 1).tolist())
    assert subset_rows(labels, 1.0, 0) is None
    assert len(stratified_split(labels, torch.arange(1000), 0.0, 0, "test")[0]) == 0


@pytest.mark.parametrize("budget", [float("inf"), 0.0])
def test_sampler_draws_each_given_row_once_per_epoch(budget):
    images = torch.arange(50, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    rows = torch.tensor([3, 10, 11, 12, 40, 49, 7])
    options = SamplerOptions(device_budget_gb=budget)
    sampler = Sampler(ImageData(images, torch.arange(50), 50), options, 0, CPU, rows)
    drawn = torch.cat([sampler.batch(position, 2)[1] for position in range(0, 14, 2)])
    assert sorted(drawn[:7].tolist()) == sorted(drawn[7:].tolist()) == sorted(rows.tolist())
    sampler.close()


def test_training_uses_the_subset_of_the_config():
    config = Config(data=Digits(resolution=8, subset=0.1))
    splits = config.data.load()
    sampler = build_inputs(config, splits, None, CPU).sampler
    rows = subset_rows(splits.train.labels, 0.1, config.seed)
    y = sampler.batch(0, len(rows))[1]
    assert torch.equal(torch.bincount(y), torch.bincount(splits.train.labels[rows]))
