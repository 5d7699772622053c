"""Videos: `gan.sample RUN --video training|walk`."""

import re
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from gan.sample import video
from gan.sample.__main__ import generate, main
from tests.gan.sample.pictures import pixels, sample

pytestmark = pytest.mark.usefixtures("short_slope_search")

STEPS_TO_NEXT = 3  # instead of 24
BAND = 28  # pixels of a caption


@pytest.fixture(autouse=True)
def short_walk(monkeypatch):
    monkeypatch.setattr("gan.sample.latents.STEPS_TO_NEXT", STEPS_TO_NEXT)


def read(path):
    """Return the frames of a GIF as arrays (H, W, 3), and their durations in milliseconds."""
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0  # endless
        frames = [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(gif)]
    return [frame for frame, _ in frames], [duration for _, duration in frames]


def test_training_shows_the_stored_grids_with_their_steps(run_folder):
    sample(run_folder, "--video", "training", "--out", "a.gif")
    frames, durations = read("a.gif")
    grids = sorted((run_folder / "samples").glob("step_*.png"))
    assert len(frames) == len(grids) > 3
    for frame, grid in zip(frames, grids, strict=True):
        np.testing.assert_allclose(frame[BAND:], pixels(grid), atol=8)  # a GIF has 256 colors
    bands = {frame[:BAND].tobytes() for frame in frames}
    assert len(bands) == len(frames)
    assert durations == [200] * (len(frames) - 1) + [2000]


def test_captions_are_the_steps(run_folder, monkeypatch):
    captions = []
    monkeypatch.setattr(video, "add_caption", lambda image, text: captions.append(text) or image)
    video.read_training(run_folder)
    assert captions == [f"step {step}" for step in (0, 1, 2, 4)]


def test_walk_begins_at_the_samples_and_depends_on_the_seed(run_folder, tmp_path):
    sample(run_folder, "-n", 2, "--out", "grid.png")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        sample(run_folder, "-n", 2, "--seed", seed, "--video", "walk", "--out", f"{name}.gif")
    frames, durations = read("a.gif")
    assert len(frames) == 4 * STEPS_TO_NEXT
    assert durations == [50] * len(frames)
    np.testing.assert_allclose(frames[0], pixels("grid.png"), atol=8)
    contents = [(tmp_path / f"{name}.gif").read_bytes() for name in "abc"]
    assert contents[0] == contents[1] != contents[2]


def test_images_of_a_walk_keep_their_class(conditional_folder, monkeypatch):
    labels = []
    monkeypatch.setattr("gan.sample.__main__.generate", lambda g, z, y: labels.append(y) or generate(g, z, y))
    sample(conditional_folder, "-n", 20, "--video", "walk", "--out", "a.gif")
    assert len(labels) == 4 * STEPS_TO_NEXT
    assert all(torch.equal(y, labels[0]) for y in labels)
    assert len(labels[0].unique()) > 4


def test_missing_damaged_and_other_grids_are_one_line_errors(copied_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    samples = copied_run / "samples"

    def fail():
        capsys.readouterr()
        assert main([str(copied_run), "--video", "training", "--out", "a.gif"]) == 2
        return capsys.readouterr().err

    (samples / "step_00000002.png").write_bytes(b"no image")
    assert re.fullmatch(r"error: cannot read .*samples/step_00000002.png: not an image; remove it\n", fail())
    Image.new("RGB", (8, 8)).save(samples / "step_00000002.png")
    assert "has sample grids of several sizes" in fail()
    shutil.rmtree(samples)
    assert "has no sample grids (step_*.png in its folder samples)" in fail()
    assert not (tmp_path / "a.gif").exists()


def test_mp4_without_its_package_is_a_one_line_error(run_folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr("gan.sample.__main__.restore_generator", None)  # it is known before images are drawn
    assert main([str(run_folder), "--video", "walk", "--out", "a.mp4", "--device", "cpu"]) == 2
    message = "error: --out a.mp4: av is not installed: pip install 'convnorm-gan[video]', or write a .gif\n"
    assert capsys.readouterr().err == message


def test_mp4_has_the_frames_of_the_gif(run_folder):
    av = pytest.importorskip("av")
    sample(run_folder, "-n", 9, "--video", "walk", "--out", "a.gif")
    sample(run_folder, "-n", 9, "--video", "walk", "--out", "a.mp4")
    frames, _ = read("a.gif")
    with av.open("a.mp4") as container:
        assert container.streams.video[0].average_rate == 20
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(decoded) == len(frames)
    height, width, _ = frames[0].shape  # both are odd, which the format does not allow
    assert height % 2 == width % 2 == 1
    for a, b in zip(decoded, frames, strict=True):
        assert a.shape == (height + height % 2, width + width % 2, 3)
        assert np.abs(a[:height, :width].astype(int) - b).mean() < 8
