import pytest
import torch

from gan.data.datasets.digits import Digits, StackedDigits
from metrics.extractors.digits import DigitsClassifier, DigitsExtractor, train_digits_classifier


@pytest.fixture(scope="module")
def extractor():
    train = Digits(resolution=8).load().train
    return DigitsExtractor(train_digits_classifier(train.images, train.labels, epochs=6))


def test_accuracy_on_held_out_digits(extractor):
    held_out = Digits(resolution=8).load().held_out
    features, logits = extractor(held_out.images)
    assert features.shape == (360, 64)
    assert (logits.argmax(dim=1) == held_out.labels).double().mean() >= 0.93


def test_features_have_mean_variance_one_on_the_training_images(extractor):
    features, _ = extractor(Digits(resolution=8).load().train.images)
    assert features.var(dim=0).mean().item() == pytest.approx(1, rel=1e-4)


def test_stacked_digits_combine_their_channels(extractor):
    data = StackedDigits(resolution=8, size=50, held_out_size=50).load().held_out
    features, logits = extractor(data.images)
    channels = [extractor(data.images[:, channel : channel + 1]) for channel in range(3)]
    assert features.shape == (50, 192)
    torch.testing.assert_close(features, torch.cat([channel.features for channel in channels], dim=1))
    r, g, b = (channel.logits[7] for channel in channels)
    assert logits[7, 357].item() == pytest.approx((r[3] + g[5] + b[7]).item(), rel=1e-9)
    assert logits.exp().sum(dim=1).sub(1).abs().max() < 1e-9
    assert (logits.argmax(dim=1) == data.labels).double().mean() >= 0.8


def test_training_is_reproducible_and_keeps_the_global_random_state():
    train = Digits(resolution=8).load().train
    state = torch.get_rng_state()
    first, second = (train_digits_classifier(train.images[:128], train.labels[:128], epochs=1) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_seeds_change_the_classifier_and_its_fingerprint():
    train = Digits(resolution=8).load().train
    first, second = (train_digits_classifier(train.images[:64], train.labels[:64], seed, epochs=1) for seed in (0, 1))
    assert not torch.equal(first.head.weight, second.head.weight)
    assert DigitsExtractor(first).fingerprint != DigitsExtractor(second).fingerprint
    assert DigitsExtractor(first).fingerprint == DigitsExtractor(first).fingerprint


def test_classifier_accepts_any_resolution():
    features, logits = DigitsClassifier()(torch.zeros(2, 1, 32, 32))
    assert features.shape == (2, 64)
    assert logits.shape == (2, 10)
