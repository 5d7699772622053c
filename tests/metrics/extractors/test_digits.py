import pytest
import torch

from gan.data.datasets.digits import Digits, StackedDigits
from metrics.extractors.digits import DigitsExtractor, load_digits_classifier
from metrics.frechet import FeatureStatistics, frechet_distance


@pytest.fixture(scope="module")
def extractor(classifier):
    return DigitsExtractor(classifier)


@pytest.mark.parametrize("resolution", [8, 16, 32, 48])
def test_accuracy_on_held_out_digits(extractor, resolution):
    held_out = Digits(resolution=resolution).load().held_out
    features, logits = extractor(held_out.images)
    assert features.shape == (360, 64)
    assert (logits.argmax(dim=1) == held_out.labels).double().mean() >= 0.99


def test_features_have_mean_variance_one_on_the_training_images(extractor):
    features, _ = extractor(Digits(resolution=16).load().train.images)
    assert features.var(dim=0).mean().item() == pytest.approx(1, rel=1e-4)


def test_distance_of_real_images_is_that_of_the_shipped_weights(extractor):
    splits = Digits(resolution=16).load()
    train, held_out = (
        FeatureStatistics.from_features(extractor(part.images).features) for part in (splits.train, splits.held_out)
    )
    assert frechet_distance(train, held_out) == pytest.approx(0.49717, abs=1e-5)


def test_images_of_any_size_have_the_features_of_16_pixels(extractor):
    small, large = (Digits(resolution=resolution).load().held_out.images for resolution in (16, 64))
    distance = (extractor(small).features - extractor(large).features).norm(dim=1)
    assert distance.max() < 0.1 * extractor(small).features.norm(dim=1).mean()


def test_stacked_digits_combine_their_channels(extractor):
    data = StackedDigits(resolution=8, size=50, held_out_size=50).load().held_out
    features, logits = extractor(data.images)
    channels = [extractor(data.images[:, channel : channel + 1]) for channel in range(3)]
    assert features.shape == (50, 192)
    torch.testing.assert_close(features, torch.cat([channel.features for channel in channels], dim=1))
    r, g, b = (channel.logits[7] for channel in channels)
    assert logits[7, 357].item() == pytest.approx((r[3] + g[5] + b[7]).item(), rel=1e-9)
    assert logits.exp().sum(dim=1).sub(1).abs().max() < 1e-9
    assert (logits.argmax(dim=1) == data.labels).double().mean() >= 0.95


def test_weights_are_part_of_the_fingerprint(extractor):
    other = load_digits_classifier()
    assert DigitsExtractor(other).fingerprint == extractor.fingerprint
    other.head.bias[0] += 1
    assert DigitsExtractor(other).fingerprint != extractor.fingerprint


def test_other_weights_are_rejected(tmp_path):
    path = tmp_path / "digits.safetensors"
    with pytest.raises(ValueError, match=r"cannot read .*digits\.safetensors: No such file"):
        load_digits_classifier(path)
    path.write_bytes(b"others")
    with pytest.raises(ValueError, match="not the digits classifier of this version"):
        load_digits_classifier(path)
