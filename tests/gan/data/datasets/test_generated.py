import json
import re
import shutil

import pytest
import torch

from gan.data import to_uint8
from gan.data.contents import get_contents
from gan.data.datasets.digits import Digits
from gan.data.datasets.generated import Generated
from gan.export import load_generator
from gan.runtime import rng
from gan.runtime.errors import UserError
from tests.gan.evaluation.classifiers import save_untrained
from tests.gan.weights import change_metadata
from train_classifier import main as train_classifier


@pytest.fixture(scope="module")
def conditional_run(tmp_path_factory, tiny_run, short_slope_search):
    """Return the folder of a class-conditional run. Tests must not change it."""
    folder = tmp_path_factory.mktemp("conditional") / "run"
    # With a large learning rate, so that the classes of the generator differ after a few steps.
    return tiny_run(folder, "data.conditional=true", "optimizer.generator.lr=0.1", "eval.metrics=[]", "train.steps=2")


def test_samples_have_the_labels_of_the_training_images(conditional_run):
    splits, real = Generated(run=str(conditional_run)).load(), Digits(resolution=16).load()
    assert torch.equal(splits.train.labels, real.train.labels)
    assert torch.equal(splits.held_out.images, real.held_out.images)
    assert torch.equal(splits.held_out.labels, real.held_out.labels)
    assert splits.train.images.shape == real.train.images.shape
    assert splits.train.images.dtype == torch.uint8
    assert splits.train.num_classes == 10


def test_samples_are_those_of_the_averaged_generator_for_their_labels(conditional_run):
    splits = Generated(run=str(conditional_run / "generator.safetensors")).load()
    generator = load_generator(conditional_run)
    count, z_dim = len(splits.train), generator.config.generator.z_dim
    z = torch.randn(count, z_dim, generator=rng.generator("cpu", 0, "generated"))[:250]
    y = splits.train.labels[:250]
    assert torch.equal(splits.train.images[:250], to_uint8(generator.network(z, y)))
    assert not torch.equal(splits.train.images[:250], to_uint8(generator.network(z, (y + 1) % 10)))


def test_samples_depend_on_the_seed(conditional_run):
    a, b, c = (Generated(run=str(conditional_run), seed=seed).load().train.images for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("unconditional", "the generator of .* is not class-conditional.*; train one with `conditional: true`"),
        ("missing", "data.run: .*missing does not exist; train the run to its end"),
        ("", "data.run is missing"),
    ],
)
def test_invalid_run_is_one_line(tmp_path, finished_run, capsys, name, reason):
    run = {"unconditional": finished_run, "missing": tmp_path / "missing", "": ""}[name]
    assert train_classifier(["--out", str(tmp_path / "out"), f"data={{name: generated, run: '{run}'}}"]) == 2
    assert re.fullmatch(f"error: .*{reason}.*\n", capsys.readouterr().err)


def test_too_little_memory_is_one_line(conditional_run, monkeypatch):
    monkeypatch.setattr("gan.runtime.memory.get_total_memory", lambda: 1e5)
    monkeypatch.setattr("gan.data.datasets.digits.require_memory", lambda *_: None)
    with pytest.raises(
        UserError, match=r"^data\.run: [\d,]+ samples need .* GB of memory, but there are 0\.0 GB; name a run"
    ):
        Generated(run=str(conditional_run)).load()


@pytest.fixture
def file(conditional_run, tmp_path):
    """Return a copy of the file of the conditional run, which a test may change."""
    return shutil.copy(conditional_run / "generator.safetensors", tmp_path)


@pytest.mark.parametrize(
    ("entry", "text", "reason"),
    [
        ("image", "[" * 100_000, "describes no generator"),
        ("data", "[" * 100_000, "describes no generator"),
        ("data", "5", "describes no generator"),
        ("image", "[-1, 16, 10]", "do not fit the network"),
        ("config", "generator: {name: dcgan, width: 65536}\ndata: digits", "do not fit the network"),  # 128 TB
    ],
)
def test_hostile_file_is_one_line(file, entry, text, reason):
    change_metadata(file, **{entry: text})
    with pytest.raises(UserError, match=rf"^data\.run: .*{reason}") as caught:
        Generated(run=file).load()
    assert len(str(caught.value).splitlines()) == 1


def test_changed_held_out_images_of_the_run_are_refused(file):
    change_metadata(file, data=json.dumps(get_contents(Digits(resolution=16).load()) | {"held-out": [360, "0"]}))
    with pytest.raises(UserError, match="the held-out images have changed since the run began"):
        Generated(run=file).load()
    Generated(run=file, allow_changes=True).load()
    change_metadata(file, data="null")  # an earlier version wrote none
    Generated(run=file).load()


def test_file_of_a_classifier_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"^data\.run: .* describes no generator; name a run of train_gan\.py"):
        Generated(run=str(save_untrained(tmp_path / "a.safetensors"))).load()
