"""Real images, and the sample grids before the first evaluation."""

import numpy as np
import pytest
import torch
from PIL import Image

from gan.config import Config
from gan.data.grids import sample_grid
from gan.options.loader import load_config
from gan.training import loop
from tests.event_files import read_steps
from tests.gan.runs import Killed, assert_same_runs, read_numbers, resume

pytestmark = pytest.mark.usefixtures("short_slope_search")

OPTIONS = ["train.steps=6", "eval.every=6", "checkpoint.every=3"]


@pytest.fixture(scope="module", autouse=True)
def whole_grids():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "NUM_SAMPLES", 64)
        yield


@pytest.fixture(scope="module")
def early_run(tmp_path_factory, short_slope_search, tiny_run):
    """A finished run with one evaluation, which tests must not change."""
    return tiny_run(tmp_path_factory.mktemp("early") / "run", *OPTIONS)


def list_samples(folder):
    return sorted(path.name for path in (folder / "samples").iterdir())


def test_grids_before_the_first_evaluation_are_at_powers_of_two(early_run):
    steps = [0, 1, 2, 4, 6]
    assert list_samples(early_run) == ["latest.png", "real.png", *(f"step_{step:08d}.png" for step in steps)]
    assert read_steps(early_run, "3_samples") == steps
    assert read_steps(early_run, "3_samples/real") == [0]
    assert [step for step in range(70) if loop.is_early(step, 40)] == [0, 1, 2, 4, 8, 16, 32]
    grids = [(early_run / "samples" / f"step_{step:08d}.png").read_bytes() for step in steps]
    assert len(set(grids)) == len(grids)
    assert (early_run / "samples" / "latest.png").read_bytes() == grids[-1]


def test_real_images_are_evenly_spaced_in_the_training_images(early_run):
    images = load_config(Config, early_run / "config.yaml").data.load().train.images
    index = [round(k * (len(images) - 1) / 63 - 0.5 + 1e-3) for k in range(64)]  # rounded down
    with Image.open(early_run / "samples" / "real.png") as real:
        expected = sample_grid(images[torch.tensor(index)], stacked=False).permute(1, 2, 0).numpy()
        assert np.array_equal(np.asarray(real.convert("RGB")), expected)


def test_resumed_run_neither_loses_nor_repeats_grids(early_run, tmp_path, tiny_run, monkeypatch, event_files_in_order):
    folder, draw = tmp_path / "killed", loop.draw_samples

    def kill(experiment, G, recorder):
        if experiment.step == 4:
            raise Killed
        return draw(experiment, G, recorder)

    monkeypatch.setattr(loop, "draw_samples", kill)
    with pytest.raises(Killed):
        tiny_run(folder, *OPTIONS)
    monkeypatch.setattr(loop, "draw_samples", draw)
    (folder / "samples" / "step_00000001.png").unlink()  # not drawn again, after step 3
    resume(folder)
    assert list_samples(folder) == [name for name in list_samples(early_run) if name != "step_00000001.png"]
    assert read_steps(folder, "3_samples") == [0, 1, 2, 4, 6]
    assert read_steps(folder, "3_samples/real") == [0]


def test_grid_of_the_newest_checkpoint_is_drawn_when_it_is_missing(tmp_path, tiny_run):
    folder = tiny_run(tmp_path / "run", "train.steps=2", "eval.every=9", "checkpoint={every: 1, keep: 2}")
    assert list_samples(folder) == ["latest.png", "real.png", *(f"step_0000000{step}.png" for step in (0, 1, 2))]
    (folder / "checkpoints" / "step_00000002.pt").unlink()
    before = (folder / "samples" / "step_00000001.png").read_bytes()
    for name in ("step_00000001.png", "real.png"):
        (folder / "samples" / name).unlink()
    resume(folder)
    assert (folder / "samples" / "step_00000001.png").read_bytes() == before
    assert (folder / "samples" / "real.png").exists()


def test_grids_do_not_change_training(early_run, tmp_path, tiny_run, monkeypatch):
    monkeypatch.setattr(loop, "is_early", lambda step, every: False)
    folder = tiny_run(tmp_path / "run", *OPTIONS)
    assert "step_00000000.png" not in list_samples(folder)
    assert read_numbers(folder) == read_numbers(early_run)
    for path in early_run.glob("samples/step_0000000[0124].png"):
        (folder / "samples" / path.name).write_bytes(path.read_bytes())
    assert_same_runs(folder, early_run)
