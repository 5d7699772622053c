import pytest
import torch

from gan.data.datasets.digits import Digits
from gan.evaluation import train_digits_classifier as module
from gan.evaluation.train_digits_classifier import main, train_digits_classifier
from metrics.extractors.digits import DigitsExtractor, load_digits_classifier
from metrics.frechet import FeatureStatistics, frechet_distance


def test_training_is_reproducible_and_keeps_the_global_random_state():
    train = Digits(resolution=16).load().train
    state = torch.get_rng_state()
    first, second = (train_digits_classifier(train.images[:128], train.labels[:128], epochs=1) for _ in range(2))
    other = train_digits_classifier(train.images[:128], train.labels[:128], seed=1, epochs=1)
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_command_writes_weights_and_prints_their_hash(tmp_path, monkeypatch, capsys, classifier):
    monkeypatch.setattr(module, "train_digits_classifier", lambda images, labels: classifier)
    path = tmp_path / "digits.safetensors"
    assert main([str(path)]) == 0
    assert "sha256 2e7191e28057e12a" in capsys.readouterr().out  # the classifier of the metrics
    assert load_digits_classifier(path).head.bias.equal(classifier.head.bias)
    assert main([str(tmp_path)]) == 2
    assert f"cannot write to {tmp_path}" in capsys.readouterr().err


@pytest.mark.slow
def test_trained_weights_measure_like_the_shipped_ones(classifier):
    splits = Digits(resolution=16).load()
    trained = train_digits_classifier(splits.train.images, splits.train.labels)

    def distance(classifier):
        parts = (DigitsExtractor(classifier)(part.images).features for part in (splits.train, splits.held_out))
        return frechet_distance(*map(FeatureStatistics.from_features, parts))

    assert distance(trained) == pytest.approx(distance(classifier), rel=0.05)
