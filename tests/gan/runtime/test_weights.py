import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations

from gan.runtime.errors import UserError
from gan.runtime.weights import build_network, export_network, read_metadata, read_weights


def test_metadata_are_read_without_the_weights(tmp_path):
    path = tmp_path / "a.safetensors"
    export_network(path, nn.Linear(10, 10), "é: 1", step=3)
    assert read_metadata(path) == read_weights(path)[1] == {"config": "é: 1", "step": "3"}
    save_file({"weight": torch.zeros(1)}, path)
    assert read_metadata(path) == {}


def test_damaged_file_has_no_metadata(tmp_path):
    whole, path = tmp_path / "whole.safetensors", tmp_path / "a.safetensors"
    export_network(whole, nn.Linear(10, 10), "a: 1")
    data = whole.read_bytes()
    headers = [b"[]", b"3", b"{", b"\xff", b"[" * 100_000, b'{"a": 3}', b'{"a": {}}', b'{"a": {"data_offsets": []}}']
    headers += [b'{"__metadata__": []}', b'{"a": {"data_offsets": [0, "b"]}}']
    damaged = [len(header).to_bytes(8, "little") + header for header in headers]
    for content in [b"", b"text of any length", data[:5], data[:50], data[:-1], data + b"x", *damaged]:
        path.write_bytes(content)
        for read in (read_metadata, read_weights):
            with pytest.raises(UserError, match=r"cannot read the weights in .*a.safetensors: ."):
                read(path)


WEIGHT_NORM = parametrizations.weight_norm(nn.Linear(3, 2))


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


class Partial(nn.Module):
    """A network whose state has neither one of its layers nor its buffer."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(10)
        self.fixed = nn.Linear(2, 2)
        self.register_buffer("noise", torch.randn(2), persistent=False)

    def state_dict(self, *args, **options):
        return {name: tensor for name, tensor in super().state_dict().items() if not name.startswith("fixed")}

    def load_state_dict(self, state_dict, *args, **options):
        return super().load_state_dict(state_dict, strict=False)


def test_what_the_file_lacks_is_drawn():
    torch.manual_seed(0)
    expected = Partial()
    torch.manual_seed(0)
    network = build_network(Partial, Partial.state_dict(expected))
    assert torch.equal(network.fixed.weight, expected.fixed.weight)
    assert torch.equal(network.noise, expected.noise)


def test_weights_of_the_file_are_not_drawn():
    torch.manual_seed(0)
    expected = torch.randn(1)
    torch.manual_seed(0)
    network = build_network(lambda: parametrizations.weight_norm(nn.Linear(3, 2)), WEIGHT_NORM.state_dict())
    assert torch.equal(torch.randn(1), expected)
    x = torch.randn(5, 3)
    assert torch.equal(network(x), WEIGHT_NORM(x))
