import math

import pytest
import torch
from torch import nn

from gan.evaluation.lipschitz import audit_lipschitz, explain_unmeasured, measure_lipschitz
from metrics.lipschitz import LipschitzTracker


class Fragile(nn.Linear):
    """A linear layer that fails for batches larger than `most`."""

    most = math.inf

    def forward(self, x):
        if len(x) > self.most:
            raise RuntimeError(f"a batch of {len(x)}\nis too large")
        return super().forward(x)


def build():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), Fragile(12, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0))
    return network, LipschitzTracker(network, torch.zeros(1, 3, 2, 2)), torch.randn(4, 3, 2, 2)


def audit(network, tracker, x):
    return audit_lipschitz("D", tracker, network, x, None)


def test_failed_spectrum_leaves_the_rest_of_an_audit():
    network, tracker, x = build()
    numbers, spectra = audit(network, tracker, x)
    network[1].most = 8  # the search for the slope has 8 images, and the matrix 12 columns
    message = "the singular values of 1 could not be measured: RuntimeError: a batch of 12"
    with pytest.warns(UserWarning, match=message) as caught:
        partial_numbers, partial_spectra = audit(network, tracker, x)
    assert len(caught) == 1
    assert partial_spectra.keys() == spectra.keys() - {"D/spectra/1"}
    assert partial_numbers == {tag: value for tag, value in numbers.items() if tag != "D/stable_rank/1"}


def test_failed_slope_leaves_the_rest_of_an_audit():
    network, tracker, x = build()
    network[1].most = 0
    with pytest.warns(UserWarning, match="could not be measured") as caught:
        partial_numbers, partial_spectra = audit(network, tracker, x)
    parts = [str(warning.message).split(" could not be")[0] for warning in caught]
    assert parts == ["the input gradients", "the singular values of 1", "the steepest slope"]
    assert list(partial_numbers) == ["D/stable_rank/3"]  # the network cannot be bounded if it cannot run
    assert list(partial_spectra) == ["D/spectra/3"]
    with pytest.warns(UserWarning, match="could not be measured") as caught:
        measured = measure_lipschitz("D", tracker, network, x, None)
    assert list(measured) == ["D/layers/3"]
    assert len(caught) == 2


def test_failed_bound_leaves_the_rest_of_an_audit(monkeypatch):
    network, tracker, x = build()
    numbers, _ = audit(network, tracker, x)

    def fail(*arguments):
        raise TypeError("an embedding was given a float")

    monkeypatch.setattr("gan.evaluation.lipschitz.certified_bound", fail)
    with pytest.warns(UserWarning, match="the certified bound could not be measured: TypeError: an embedding was"):
        partial_numbers, _ = audit(network, tracker, x)
    assert partial_numbers == {tag: value for tag, value in numbers.items() if tag != "D/certified"}


def test_layers_without_a_norm_are_listed_by_reason():
    network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.PReLU(), nn.LayerNorm(4))
    network.unused = nn.Linear(2, 2)
    network.forward = lambda x: network[3](network[2](network[1](network[0](x))))
    assert explain_unmeasured(LipschitzTracker(network, torch.zeros(1, 4))) == [
        "no operator norm: 1, 2, 3 (not affine)",
        "no operator norm: unused (never called)",
    ]
