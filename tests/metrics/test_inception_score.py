import pytest
import torch

from metrics.inception_score import inception_score


def test_confident_and_balanced_reaches_the_number_of_classes():
    saturated = torch.full((20, 5), float("-inf"))
    saturated[torch.arange(20), torch.arange(20) % 5] = 0.0
    assert inception_score(saturated) == pytest.approx(5, rel=1e-12)


def test_one_class_alone_and_no_idea_at_all_both_score_one():
    one_class = torch.eye(4)[[2] * 10].log()
    assert inception_score(one_class) == pytest.approx(1, rel=1e-12)
    assert inception_score(torch.full((10, 4), 0.25).log()) == pytest.approx(1, rel=1e-12)


def test_equals_the_definition():
    p = torch.rand(30, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(dim=1)
    marginal = p.mean(dim=0)
    expected = (p * (p / marginal).log()).sum(dim=1).mean().exp().item()
    assert inception_score(p.log()) == pytest.approx(expected, rel=1e-12)
