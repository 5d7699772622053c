from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from gan.config import Config
from gan.data import Splits
from gan.data.datasets.cifar import CIFAR10Config
from gan.data.datasets.digits import Digits
from gan.evaluation.build import build_evaluator, check_metrics
from gan.evaluation.extractors import MetricsConfig
from gan.runtime.errors import UserError
from metrics.extractors.digits import DigitsExtractor
from metrics.frechet import FeatureStatistics

CPU = torch.device("cpu")


def test_every_resolution_has_the_same_classifier(splits, classifier):
    for data in (splits, Digits(resolution=8).load()):
        evaluator = build_evaluator(Config().eval.metrics, MetricsConfig(), data, CPU)
        assert evaluator.extractors["digits"].fingerprint == DigitsExtractor(classifier).fingerprint


def test_no_metrics_need_no_evaluator(splits):
    assert build_evaluator([], MetricsConfig(), splits, CPU) is None


def test_missing_weights_are_an_error(splits, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("metrics.extractors.digits.load_digits_classifier.__defaults__", (tmp_path / "gone",))
    for name, reason in (
        ("kl10", "cannot read the weights of the digits classifier"),
        ("fid10_train", r"set metrics\.inception_weights=FILE or metrics\.download=true, or put .*\.pth into"),
        ("fd_dinov2-vit-b-14-10_train", r"metrics\.download=true"),
    ):
        with pytest.raises(UserError, match=reason):
            build_evaluator([name], MetricsConfig(), splits, CPU)


def test_statistics_file_with_other_features_is_an_error(splits, tmp_path):
    path = tmp_path / "statistics.npz"
    FeatureStatistics.from_features(torch.rand(9, 7)).save(path)
    with pytest.raises(UserError, match="has 7 features per image, but fd_digits70_file has 64"):
        build_evaluator(["fd_digits70_file"], MetricsConfig(statistics=str(path)), splits, CPU)


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ({}, None),
        ({"preprocessing": "torch_fidelity"}, None),  # of Inception, but the extractor has none
        ({"extractor": "dinov2"}, "extractor 'dinov2' are not comparable with extractor 'digits' of fd_digits70_file"),
        ({"weights": "other"}, "weights 'other' are not comparable with weights '.*' of fd_digits70_file"),
        ({"image_size": "32x32"}, "image_size '32x32' are not comparable with image_size '16x16' of fd_digits70_file"),
    ],
)
def test_statistics_file_of_another_origin_is_an_error(splits, classifier, tmp_path, entry, error):
    path = tmp_path / "statistics.npz"
    statistics = FeatureStatistics.from_features(torch.rand(99, 64))
    replace(statistics, origin=DigitsExtractor(classifier).origin | entry).save(path)
    with nullcontext() if error is None else pytest.raises(UserError, match=rf"^metrics\.statistics: .*npz: .*{error}"):
        build_evaluator(["fd_digits70_file"], MetricsConfig(statistics=str(path)), splits, CPU)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fd_digits10_test361", "digits has 360 images in its test split"),
        ("fd_digit10_test", "unknown feature space 'digit'"),
        ("is_dinov2-vit-b-14-10", "is needs class logits, which dinov2-vit-b-14 does not have"),
    ],
)
def test_metrics_that_do_not_fit_the_data_are_errors(splits, name, message):
    with pytest.raises(UserError, match=message):
        check_metrics(["modes10", name], Digits(resolution=16), splits)


def test_held_out_metrics_need_held_out_images(splits):
    with pytest.raises(UserError, match="digits has no held-out images; choose a metric that ends in _train"):
        check_metrics(["fd_digits10_test"], Digits(resolution=16), Splits(splits.train, None))


def test_digits_metrics_need_images_of_digits(splits):
    with pytest.raises(UserError, match="modes10 works only for images of digits, not for cifar10"):
        check_metrics(["fid10_train", "modes10"], CIFAR10Config(), splits)


def test_classwise_metrics_need_labels_and_enough_images_of_each_class(splits):
    conditional = Digits(resolution=16, conditional=True)
    check_metrics(["intrafd_digits1k_test"], conditional, splits)
    with pytest.raises(UserError, match="needs a class-conditional generator"):
        check_metrics(["intrafd_digits1k_test"], Digits(resolution=16), splits)
    with pytest.raises(UserError, match="the smallest class has 35 real images and about 9"):
        check_metrics(["intrafd_digits100_test"], conditional, splits)
    with pytest.raises(UserError, match="the smallest class has 9"):
        check_metrics(["intrafd_digits1k_test100"], conditional, splits)
