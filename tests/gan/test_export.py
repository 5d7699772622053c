import os
import shutil
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gan.config import Config
from gan.export import ONNX_TORCH, load_generator, main
from gan.options.loader import load_config
from gan.runtime.errors import UserError
from gan.training.restore import restore_generator
from tests.gan.weights import change_metadata

pytestmark = pytest.mark.usefixtures("short_slope_search")
CPU = torch.device("cpu")


def assert_same(one, other):
    assert (one.config, one.image, one.step) == (other.config, other.image, other.step)
    state = other.network.state_dict()
    assert one.network.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in one.network.state_dict().items())


def test_load_generator_equals_the_newest_checkpoint(tmp_path, tiny_run):
    folder = tiny_run(tmp_path / "run", "data.conditional=true", "generator.normalization=spectral", "train.steps=2")
    loaded = load_generator(folder)
    assert_same(loaded, restore_generator(folder, CPU))
    assert loaded.config == load_config(Config, folder / "config.yaml")
    assert not loaded.network.training
    assert loaded.network(torch.zeros(3, 8), torch.arange(3)).shape == (3, 1, 16, 16)


def test_export_of_the_best_checkpoint(tmp_path, tiny_run, capsys):
    folder = tiny_run(tmp_path / "run", "train.steps=6", "optimizer.generator.lr=0.05")
    out = tmp_path / "best.safetensors"
    assert main([str(folder), "--out", str(out), "--checkpoint", "best"]) == 0
    assert capsys.readouterr().out.endswith(f"{out}\n")
    assert_same(load_generator(out), restore_generator(folder, CPU, "best"))


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__ < ONNX_TORCH, reason="needs a newer PyTorch")
def test_onnxruntime_generates_the_same_images_at_any_batch_size(tmp_path, tiny_run):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    small = ["data.resolution=8", "train.steps=1", "eval.metrics=[]"]  # with one up-sampling layer
    folder = tiny_run(tmp_path / "run", *small, "data.conditional=true", "generator.normalization=conv_norm")
    assert main([str(folder), "--out", str(tmp_path / "g.onnx")]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "g.onnx")
    generator = load_generator(folder)
    generator.network.double()
    for count in (1, 5):
        z = torch.randn(count, 8, generator=torch.Generator().manual_seed(count))
        inputs = {"z": z, "y": torch.arange(count)}
        (images,) = session.run(["images"], {name: tensor.numpy() for name, tensor in inputs.items()})
        expected = generator.network(z.double(), inputs["y"])
        torch.testing.assert_close(torch.from_numpy(images).double(), expected, rtol=0, atol=1e-5)
        assert images.std() > 1e-3


def test_bf16_weights_are_half_as_large_and_loaded_in_single_precision(tmp_path, finished_run):
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    assert main([str(finished_run), "--out", str(full)]) == 0
    assert main([str(full), "--out", str(half), "--bf16"]) == 0
    assert main([str(full), "--out", str(tmp_path / "best.safetensors"), "--checkpoint", "best"]) == 2
    assert half.stat().st_size < 0.7 * full.stat().st_size
    weights, rounded = (load_generator(path).network.state_dict() for path in (full, half))
    for name, weight in weights.items():
        assert rounded[name].dtype == weight.dtype
        assert torch.equal(rounded[name], weight.to(torch.bfloat16).to(weight.dtype))


def test_load_generator_rejects_other_files(tmp_path):
    (tmp_path / "text").write_text("none")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name, message in (
        ("text", "cannot read the weights in .*text"),
        ("absent", "cannot read the weights in .*absent"),
        ("other.safetensors", "contains no description of its network"),
    ):
        with pytest.raises(UserError, match=message):
            load_generator(tmp_path / name)


def test_weights_of_another_network_are_a_user_error(tmp_path, finished_run):
    with safe_open(finished_run / "generator.safetensors", "pt") as file:
        save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors", file.metadata())
    with pytest.raises(UserError, match=r"other.safetensors do not fit the network that the file describes"):
        load_generator(tmp_path / "other.safetensors")


def test_generator_without_a_step_is_refused(tmp_path, finished_run):
    with safe_open(finished_run / "generator.safetensors", "pt") as file:
        metadata = {name: text for name, text in file.metadata().items() if name != "step"}
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors", metadata)
    with pytest.raises(UserError, match="contains no description of its network"):
        load_generator(tmp_path / "other.safetensors")


HOSTILE = {
    "image": [
        *("5", "[1]", '["a", 16, null]', "[1,", "[1, 1000000000, null]", "[1, -16, null]", "[0, 16, null]"),
        *("[1, 16.5, null]", "[true, 16, null]", "[1, 16, 1000000000000]", "[" * 100_000, "[1, 16, 10]"),
        "[1, 17, null]",
    ],
    "step": ['"x"', "null", "9" * 5000, "-3", ".nan", "[]", "1e300"],
    "label_counts": ["5", "[1]", "[-1, 1]", '["a"]', "[0]"],
    "data": ["5", "[1,", "[" * 100_000],
    "config": ["\0", "a: [", "[1]", "x", "generator: {name: resnet}", "#" * 2_000_000],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in HOSTILE.items() for text in texts])
def test_hostile_description_is_a_one_line_error(tmp_path, finished_run, name, text):
    path = shutil.copy(finished_run / "generator.safetensors", tmp_path)
    change_metadata(path, **{name: text})
    with pytest.raises(UserError) as caught:
        load_generator(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_network_larger_than_its_file_is_not_built(tmp_path, finished_run):
    path = shutil.copy(finished_run / "generator.safetensors", tmp_path)
    change_metadata(path, config="generator: {name: dcgan, width: 65536}")  # 128 TB
    with pytest.raises(UserError, match="do not fit the network that the file describes"):
        load_generator(path)


def test_weights_of_another_type_are_a_user_error(tmp_path, finished_run):
    path = shutil.copy(finished_run / "generator.safetensors", tmp_path)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).int() for name in file.keys()}  # noqa: SIM118
        save_file(tensors, path, file.metadata())
    with pytest.raises(UserError, match="do not fit the network that the file describes"):
        load_generator(path)


def test_pipe_instead_of_weights_is_a_user_error(tmp_path):
    os.mkfifo(tmp_path / "g.safetensors")
    with pytest.raises(UserError, match="not a regular file"):
        load_generator(tmp_path / "g.safetensors")


def test_invalid_options_are_one_line_errors(tmp_path, finished_run, capsys, monkeypatch):
    (tmp_path / "mine.onnx").write_text("mine")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    capsys.readouterr()
    (tmp_path / "text").touch()
    for out, message in (
        ("g.pt", "the name must end in .safetensors or .onnx (see --help)"),
        ("mine.onnx", "already exists; choose another --out"),
        ("g.onnx", "onnx is not installed: pip install 'convnorm-gan[onnx]'"),
        ("text/g.safetensors", "g.safetensors: File exists"),
    ):
        assert main([str(finished_run), "--out", str(tmp_path / out)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.endswith(f"{message}\n")
    assert main([str(finished_run), "--out", str(tmp_path / "g.onnx"), "--bf16"]) == 2
    assert "must end in .safetensors" in capsys.readouterr().err
    assert (tmp_path / "mine.onnx").read_text() == "mine"
