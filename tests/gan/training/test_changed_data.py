"""Runs whose data set changes before they are resumed."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from gan import audit
from gan.config import Config
from gan.data.contents import refuse_changed_images
from gan.options.loader import load_config
from gan.runtime import signed
from gan.runtime.errors import UserError
from gan.runtime.files import write_atomically
from gan.training.restore import restore_experiment
from tests.gan.data.packing import encode, write_files
from tests.gan.runs import load_newest, read_files
from train_gan import main

pytestmark = pytest.mark.usefixtures("short_slope_search")


def write_images(root, count: int, first: int = 0):
    return write_files(root, {f"{i:02d}.png": encode(first + i, (16, 16)) for i in range(count)})


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_run):
    """A run of two steps on 40 training images and 10 held-out images, and the folder of these images."""
    folder = tmp_path_factory.mktemp("finished")
    write_images(folder / "images" / "train", 40)
    write_images(folder / "images" / "val", 10, first=100)
    data = f"data={{name: folder, root: {folder}/images, resolution: 16}}"
    few = ["eval.metrics=[]", "lipschitz.every=99", "lipschitz.audit_every=99", "regularizers={}"]
    return tiny_run(folder / "run", data, "train.steps=2", *few), folder / "images"


@pytest.fixture
def run(tmp_path, finished):
    return shutil.copytree(finished[0], tmp_path / "run")


@pytest.fixture
def images(tmp_path, finished):
    return shutil.copytree(finished[1], tmp_path / "images")


def resume(run, images, *arguments: str) -> int:
    return main(["--out", str(run), "--device", "cpu", "--resume", f"data.root={images}", "train.steps=3", *arguments])


def replace_all(images):
    shutil.rmtree(images / "train")
    write_images(images / "train", 25, first=50)


def change_one(images):
    (images / "train" / "07.png").write_bytes(encode(7777, (16, 16)))


def change_held_out(images):
    (images / "val" / "03.png").unlink()


CHANGES = {
    replace_all: r"the training images have changed .*\(40 with fingerprint \w+ then, 25 with fingerprint \w+ now\)",
    change_one: r"the training images have changed .*\(40 with fingerprint \w+ then, 40 with fingerprint \w+ now\)",
    change_held_out: r"the held-out images have changed .*\(10 with .* then, 9 with .* now\)",
}


@pytest.mark.parametrize(("change", "message"), CHANGES.items(), ids=[change.__name__ for change in CHANGES])
def test_run_on_changed_images_is_refused(run, images, capsys, change, message):
    change(images)
    before = read_files(run)
    assert resume(run, images) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(
        rf"^error: {run}: .*{message}, or another version of Pillow .*restore them, or set data\.allow_changes=true",
        error,
    )
    assert read_files(run) == before


def test_change_is_allowed_once(run, images, capsys):
    replace_all(images)
    assert resume(run, images, "data.allow_changes=true") == 0
    assert load_newest(run)["data"]["training"][0] == 25
    assert not load_config(Config, run / "config.yaml").data.allow_changes
    assert resume(run, images, "train.steps=4") == 0
    change_one(images)
    capsys.readouterr()
    assert resume(run, images, "train.steps=5") == 2
    assert "the training images have changed" in capsys.readouterr().err


def test_equal_images_elsewhere_are_no_change(run, images):
    assert resume(run, images) == 0


def test_checkpoint_of_an_earlier_version_is_not_checked(run, images):
    state = load_newest(run)
    del state["data"]
    write_atomically(run / "checkpoints" / "step_00000002.pt", lambda file: signed.save(state, file))
    change_one(images)
    assert resume(run, images) == 0


def test_other_commands_refuse_changed_images(run, images, capsys):
    change_held_out(images)
    with pytest.raises(UserError, match="the held-out images have changed"):
        restore_experiment(run, torch.device("cpu"), [f"data.root={images}"], metrics=())
    assert audit.main([str(run), f"data.root={images}"]) == 2
    assert "the held-out images have changed" in capsys.readouterr().err
    assert audit.main([str(run), f"data.root={images}", "data.allow_changes=true"]) == 0


def test_held_out_images_where_there_were_none_are_no_change():
    saved, now = (3, "a"), (2, "b")
    refuse_changed_images(
        Path("run"), {"training": saved, "held-out": None}, {"training": saved, "held-out": now}, False
    )
    with pytest.raises(UserError, match="the held-out images have changed"):
        refuse_changed_images(
            Path("run"), {"training": saved, "held-out": now}, {"training": saved, "held-out": None}, False
        )
