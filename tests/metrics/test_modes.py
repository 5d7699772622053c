import math

import pytest
import torch

from metrics.modes import captured_modes, confident_fraction, kl_to_uniform


def make_logits(labels, classes):
    return torch.nn.functional.one_hot(torch.tensor(labels), classes).double().clamp(min=1e-12).log()


def test_captured_modes():
    assert captured_modes(make_logits([0, 3, 3, 7], 10)) == 3


def test_kl_of_balanced_classes_and_of_one_class():
    assert kl_to_uniform(make_logits([0, 1, 2, 3], 4)) == pytest.approx(0, abs=1e-12)
    assert kl_to_uniform(make_logits([2, 2, 2], 4)) == pytest.approx(math.log(4))


def test_kl_of_half_of_the_classes():
    assert kl_to_uniform(make_logits([0, 1, 0, 1], 4)) == pytest.approx(math.log(2))


def test_confident_fraction():
    p = torch.tensor([[0.91, 0.09], [0.89, 0.11], [0.05, 0.95], [0.5, 0.5]], dtype=torch.float64)
    assert confident_fraction(p.log()) == 0.5
    assert confident_fraction(p.log() - 7) == 0.5
