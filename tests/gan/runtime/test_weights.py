import pytest
import torch
from torch import nn

from gan.runtime.weights import build_network


def test_network_with_more_weights_than_its_file_is_not_built():
    devices = []

    def build():
        devices.append(torch.zeros(1).device.type)
        return nn.Linear(10, 10)

    weights = nn.Linear(10, 10).state_dict()
    with pytest.raises(ValueError, match="weights are missing"):
        build_network(build, {"weight": weights["weight"]})
    assert devices == ["meta"]
    assert torch.equal(build_network(build, weights).weight, weights["weight"])


def test_weights_that_do_not_fit_are_a_value_error():
    weights = nn.Linear(10, 10).state_dict()
    with pytest.raises(ValueError, match="weight has another type"):
        build_network(lambda: nn.Linear(10, 10), weights | {"weight": weights["weight"].int()})
    with pytest.raises(ValueError, match="Unexpected key"):
        build_network(lambda: nn.Linear(10, 10), weights | {"other": weights["weight"]})
    with pytest.raises(ValueError, match="negative dimension"):
        build_network(lambda: nn.Linear(-10, 10), weights)


def test_lack_of_memory_is_none_of_the_file():
    def build():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(RuntimeError, match="allocate"):
        build_network(build, {})
