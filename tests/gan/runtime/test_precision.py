import pytest
import torch

from gan.config import Config
from gan.options.loader import load_config
from gan.options.nodes import ConfigError
from gan.run.divergence import find_nonfinite
from gan.runtime.device import select_device
from gan.runtime.precision import autocast, build_loss_scaler, training_precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def keep_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_tf32_is_used_only_where_it_is_asked_for(precision):
    select_device("cpu")
    assert not torch.backends.cudnn.allow_tf32
    with training_precision(precision):
        assert torch.backends.cudnn.allow_tf32 == (precision == "tf32")
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", None), ("tf32", None), ("bf16", "bfloat16"), ("fp16", "float16")]
)
def test_dtype_of_forward_passes(precision, dtype):
    with autocast(CPU, precision):
        y = torch.nn.functional.linear(torch.zeros(2, 2), torch.zeros(2, 2))
    assert y.dtype == (torch.float32 if dtype is None else getattr(torch, dtype))
    assert build_loss_scaler(CPU, precision).is_enabled() == (precision == "fp16")


@pytest.mark.parametrize(
    ("override", "precision"),
    [("train.amp=none", "fp32"), ("train.amp=bf16", "bf16"), ("train.precision=tf32", "tf32")],
)
def test_old_key_and_its_values_are_accepted(tiny_config, override, precision):
    assert load_config(Config, tiny_config, [override]).train.precision == precision


def test_old_value_is_not_accepted_under_the_new_key(tiny_config):
    with pytest.raises(
        ConfigError, match=r"train\.precision: must be one of fp32, tf32, bf16, fp16, not the string 'none'"
    ):
        load_config(Config, tiny_config, ["train.precision=none"])


def test_choices_of_true_and_false_are_printed_as_in_yaml(tiny_config):
    with pytest.raises(ConfigError, match=r"train\.graph: must be one of auto, true, false, not the string 'never'"):
        load_config(Config, tiny_config, ["train.graph=never"])


def test_overflow_of_a_gradient_is_no_divergence_in_fp16():
    network = torch.nn.Linear(1, 1)
    network.weight.grad = torch.full_like(network.weight, torch.inf)
    assert find_nonfinite({"D": (network, None)}, {"loss/D": torch.zeros(())}) == ["the gradient of D.weight"]
    assert find_nonfinite({"D": (network, None)}, {"loss/D": torch.zeros(())}, "fp16") == []
