"""Fixtures shared by the tests of models."""

import pytest
import torch


def _dense_matrix(layer, input_shape):
    """Return the matrix of x -> layer(x) - layer(0) in double precision, with one row per output entry."""
    basis = torch.eye(torch.Size(input_shape).numel(), dtype=torch.float64).view(-1, *input_shape)
    with torch.no_grad():
        return (layer(basis) - layer(torch.zeros_like(basis[:1]))).flatten(1).T


@pytest.fixture(scope="session")
def dense_matrix():
    """The function (layer, input_shape) -> matrix of the layer (outputs, inputs)."""
    return _dense_matrix
