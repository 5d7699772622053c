import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan.config import Config
from gan.data import ImageData, Sampler, SamplerOptions
from gan.data.datasets.digits import Digits
from gan.data.subset import stratified, subset_rows
from gan.training.build import build_inputs

CPU = torch.device("cpu")


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0.001, 1), st.integers(0, 3))
def test_each_class_keeps_its_share_and_nothing_is_lost(labels, share, seed):
    labels = torch.tensor(labels)
    rows = torch.arange(len(labels))[:: 1 + seed % 2]
    chosen, rest = stratified(labels, rows, share, seed, "test")
    assert torch.equal(torch.cat([chosen, rest]).sort().values, rows)
    before = torch.bincount(labels[rows], minlength=5)
    after = torch.bincount(labels[chosen], minlength=5)
    for n, k in zip(before.tolist(), after.tolist(), strict=True):
        assert k == (max(1, round(torch.tensor(n * share).round().item())) if n else 0)


def test_a_smaller_share_is_part_of_a_larger_one_and_the_seed_decides():
    labels = torch.arange(1000) % 7
    shares = [set(subset_rows(labels, share, 0).tolist()) for share in (0.1, 0.3, 0.7)]
    assert shares[0] < shares[1] < shares[2]
    assert shares[0] != set(subset_rows(labels, 0.1, 1).tolist())
    assert subset_rows(labels, 1.0, 0) is None
    assert len(stratified(labels, torch.arange(1000), 0.0, 0, "test")[0]) == 0


@pytest.mark.parametrize("budget", [float("inf"), 0.0])
def test_a_sampler_of_some_rows_draws_each_of_them_once_an_epoch(budget):
    images = torch.arange(50, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    rows = torch.tensor([3, 10, 11, 12, 40, 49, 7])
    options = SamplerOptions(device_budget_gb=budget)
    sampler = Sampler(ImageData(images, torch.arange(50), 50), options, 0, CPU, rows)
    seen = torch.cat([sampler.batch(position, 2)[1] for position in range(0, 14, 2)])
    assert sorted(seen[:7].tolist()) == sorted(seen[7:].tolist()) == sorted(rows.tolist())
    sampler.close()


def test_a_gan_is_trained_on_the_subset_that_its_config_names():
    config = Config(data=Digits(resolution=8, subset=0.1))
    splits = config.data.load()
    sampler = build_inputs(config, splits, None, CPU).sampler
    rows = subset_rows(splits.train.labels, 0.1, config.seed)
    seen = sampler.batch(0, len(rows))[1]
    assert torch.equal(torch.bincount(seen), torch.bincount(splits.train.labels[rows]))
