import pytest
import torch
from torch import nn

from models.calls import call_network, get_logits


class Projection(nn.Module):
    def forward(self, x, y):
        return (x * y).sum(1)


def test_labels_are_passed_only_if_there_are_any():
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    assert call_network(nn.Identity(), x, None) is x
    assert torch.equal(call_network(Projection(), x, y), (x * y).sum(1))
    assert torch.equal(get_logits(Projection(), x, y), (x * y).sum(1))


@pytest.mark.parametrize("count", [1, 4])
def test_one_logit_per_input(count):
    x, column = torch.randn(count, 3), nn.Linear(3, 1)
    assert torch.equal(get_logits(column, x), column(x)[:, 0])
    assert torch.equal(get_logits(nn.Sequential(column, nn.Flatten(0)), x), column(x)[:, 0])


@pytest.mark.parametrize(
    ("network", "found"),
    [
        (nn.Linear(3, 2), r"\(4, 2\)"),
        (nn.Unflatten(1, (3, 1)), r"\(4, 3, 1\)"),
        (nn.Sequential(nn.Linear(3, 1), nn.Unflatten(0, (2, 2))), r"\(2, 2, 1\)"),
        (nn.LSTM(3, 1), "tuple"),
    ],
)
def test_other_outputs_are_refused(network, found):
    with pytest.raises(ValueError, match=rf"one logit per input, logits of shape \(4,\), but the shape is {found}"):
        get_logits(network, torch.randn(4, 3))
