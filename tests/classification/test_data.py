from dataclasses import replace

import pytest
import torch

from classification.config import Config, LabelsConfig, TrainConfig
from classification.data import add_label_noise, build_sets, iterate_batches
from gan.data import ImageData, Splits
from gan.data.datasets.digits import Digits
from gan.runtime.errors import UserError

TINY = Config(train=TrainConfig(batch_size=8))


@pytest.fixture(scope="module")
def splits() -> Splits:
    return Digits(resolution=8).load()


def test_training_and_validation_rows_are_a_stratified_partition(splits):
    sets = build_sets(TINY, splits)
    rows, validation = set(sets.rows.tolist()), set(sets.validation_rows.tolist())
    assert rows.isdisjoint(validation)
    assert len(rows) + len(validation) == len(splits.train)
    counts = torch.bincount(splits.train.labels[sets.validation_rows])
    assert torch.equal(counts, (0.1 * torch.bincount(splits.train.labels)).round().long())


@pytest.mark.parametrize("seed", [0, 1])
def test_subset_does_not_change_validation_rows(splits, seed):
    config = replace(TINY, seed=seed)
    whole = build_sets(config, splits)
    smaller = set(whole.rows.tolist())
    for share in (0.6, 0.3, 0.1):
        sets = build_sets(replace(config, data=Digits(subset=share)), splits)
        assert torch.equal(sets.validation_rows, whole.validation_rows)
        rows = set(sets.rows.tolist())
        assert rows < smaller
        assert len(rows) == pytest.approx(share * len(whole.rows), abs=5)
        smaller = rows


def test_validation_zero_uses_all_images(splits):
    sets = build_sets(replace(TINY, validation=0.0), splits)
    assert len(sets.validation_rows) == 0
    assert torch.equal(sets.rows, torch.arange(len(splits.train)))


def test_only_training_labels_are_noisy(splits):
    sets = build_sets(replace(TINY, labels=LabelsConfig(noise=0.5, exclude_true=True)), splits)
    wrong = sets.train.labels != splits.train.labels
    assert wrong[sets.rows].float().mean().item() == pytest.approx(0.5, abs=1 / len(sets.rows))
    assert not wrong[sets.validation_rows].any()
    assert torch.equal(sets.test.labels, splits.held_out.labels)
    assert sets.train.images is splits.train.images
    again = build_sets(replace(TINY, labels=LabelsConfig(noise=0.5, exclude_true=True)), splits)
    assert torch.equal(again.train.labels, sets.train.labels)


def test_label_noise_is_uniform():
    labels = torch.arange(10).repeat(2000)
    for exclude_true, unchanged in ((False, 0.4 / 10), (True, 0.0)):
        noisy = add_label_noise(labels, 10, 0.4, exclude_true, seed=0)
        wrong = noisy != labels
        assert wrong.float().mean().item() == pytest.approx(0.4 - unchanged, abs=0.01 if unchanged else 1e-6)
        shifts = torch.bincount((noisy - labels)[wrong] % 10, minlength=10)[1:] / wrong.sum()
        assert (shifts - 1 / 9).abs().max() < 0.01
    assert torch.equal(add_label_noise(labels, 10, 0.0, False, seed=0), labels)


def test_label_noise_is_nested():
    labels = torch.zeros(1000, dtype=torch.long)
    few, many = (add_label_noise(labels, 10, share, True, seed=3) for share in (0.2, 0.6))
    assert (few != labels).sum() == 200
    assert torch.equal(many[few != labels], few[few != labels])


def test_batches_have_all_rows_in_order(splits):
    rows = torch.tensor([5, 3, 700, 2])
    parts = list(iterate_batches(splits.train, 3, torch.device("cpu"), rows))
    assert [start for start, _, _ in parts] == [0, 3]
    x = torch.cat([x for _, x, _ in parts])
    torch.testing.assert_close(x, splits.train.images[rows] / 255)
    assert torch.equal(torch.cat([y for _, _, y in parts]), splits.train.labels[rows])


def images(count: int, num_classes: int) -> ImageData:
    return ImageData(torch.zeros(count, 1, 8, 8, dtype=torch.uint8), torch.arange(count) % num_classes, num_classes)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (Splits(images(40, 10), None), "digits has no held-out images"),
        (Splits(images(40, 1), images(9, 1)), "digits has no classes"),
        (Splits(images(40, 10), images(9, 1)), "have other classes than the training images"),
        (Splits(images(8, 2), images(9, 2)), r"train.batch_size=8 is larger than the training set \(6 images\)"),
    ],
)
def test_unsuitable_dataset_is_a_user_error(splits, message):
    with pytest.raises(UserError, match=message):
        build_sets(TINY, splits)
