import pytest
import torch
from safetensors.torch import save_file
from torch import nn

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
