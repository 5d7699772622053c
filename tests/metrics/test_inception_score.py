import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from metrics.inception_score import inception_score


def test_confident_and_balanced_predictions_score_the_number_of_classes():
    saturated = torch.full((20, 5), float("-inf"))
    saturated[torch.arange(20), torch.arange(20) % 5] = 0.0
    assert inception_score(saturated, splits=1) == pytest.approx(5, rel=1e-12)


def test_single_class_and_uniform_predictions_score_one():
    one_class = torch.eye(4)[[2] * 10].log()
    assert inception_score(one_class, splits=1) == pytest.approx(1, rel=1e-12)
    assert inception_score(torch.full((10, 4), 0.25).log(), splits=1) == pytest.approx(1, rel=1e-12)


def test_matches_the_definition():
    p = torch.rand(30, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(dim=1)
    marginal = p.mean(dim=0)
    expected = (p * (p / marginal).log()).sum(dim=1).mean().exp().item()
    assert inception_score(p.log(), splits=1) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("splits", [1, 10, 7])
def test_matches_torch_fidelity(splits):
    logits = 3 * torch.randn(83, 12, generator=torch.Generator().manual_seed(0))
    metrics = isc_features_to_metric(logits, splits)
    expected = metrics["inception_score_mean"]
    assert inception_score(logits, splits) == pytest.approx(expected, rel=1e-12)
    assert inception_score(logits, splits).std == pytest.approx(metrics["inception_score_std"], rel=1e-9, abs=1e-12)
    assert inception_score(logits + 5, splits) == pytest.approx(expected, rel=1e-6)


def test_fewer_images_than_splits_are_rejected():
    with pytest.raises(ValueError, match="not 9"):
        inception_score(torch.zeros(9, 4))
