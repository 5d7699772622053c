import re

import numpy as np
import pytest
import torch
from PIL import Image

from gan.sample import STEPS, interpolate, main
from gan.training.restore import restore_generator

pytestmark = pytest.mark.usefixtures("short_slope_search")

CPU = ["--device", "cpu"]


@pytest.fixture
def run_folder(tmp_path, finished_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return finished_run


@pytest.fixture
def conditional_folder(tmp_path, tiny_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tiny_run(tmp_path / "run", "train.steps=1", "data.conditional=true", "eval.metrics=[]")


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def sample(folder, *arguments):
    assert main([str(folder), *CPU, *map(str, arguments)]) == 0


def test_grid_and_folder_contain_the_same_samples(run_folder, tmp_path):
    sample(run_folder, "-n", 5, "--out-dir", "images")
    sample(run_folder, "-n", 5, "--out", "grid.png")
    files = sorted((tmp_path / "images").iterdir())
    assert [file.name for file in files] == [f"00000{i}.png" for i in range(5)]
    grid = pixels("grid.png")[..., 0]
    scale = 3  # images of 16 pixels are enlarged to 48
    for column, file in enumerate(files):
        left = scale + column * (48 + scale)
        assert np.array_equal(grid[scale : scale + 48 : scale, left : left + 48 : scale], pixels(file))


def test_samples_depend_on_the_seed(run_folder):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        sample(run_folder, "-n", 4, "--seed", seed, "--out", f"{name}.png")
    assert np.array_equal(pixels("a.png"), pixels("b.png"))
    assert not np.array_equal(pixels("a.png"), pixels("c.png"))


def test_truncated_latents_are_within_the_threshold(run_folder, monkeypatch):
    drawn = []
    monkeypatch.setattr("gan.sample.generate", lambda g, z, y: drawn.append(z) or torch.zeros(len(z), 1, 16, 16).byte())
    sample(run_folder, "-n", 200, "--truncation", 0.7, "--out", "a.png")
    sample(run_folder, "-n", 200, "--out", "b.png")
    assert drawn[0].abs().max() <= 0.7 < drawn[1].abs().max()
    assert drawn[0].std() > 0.3


def test_interpolation_follows_the_great_circle_and_interpolates_norms():
    ends = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    z, y = interpolate(ends, torch.arange(6))
    rows = z.unflatten(0, (3, STEPS))
    torch.testing.assert_close(rows[:, 0], ends[0::2])
    torch.testing.assert_close(rows[:, -1], ends[1::2])
    lengths = rows.norm(dim=2)
    steps = (rows[:, 1:] / lengths[:, 1:, None] - rows[:, :-1] / lengths[:, :-1, None]).norm(dim=2)
    assert (steps.amax(dim=1) / steps.amin(dim=1) - 1).max() < 1e-3  # equal steps along the great circle
    assert (lengths >= torch.minimum(lengths[:, :1], lengths[:, -1:]) - 1e-4).all()
    assert y.tolist() == [0] * STEPS + [2] * STEPS + [4] * STEPS


def test_interpolations_are_rows_of_the_grid(run_folder):
    sample(run_folder, "-n", 3, "--interpolate", "--out", "rows.png")
    assert pixels("rows.png").shape == (3 * 51 + 3, STEPS * 51 + 3, 3)


def test_training_images_are_their_own_nearest_neighbors(run_folder, monkeypatch):
    train = restore_generator(run_folder, torch.device("cpu")).config.data.load().train
    rows = []
    monkeypatch.setattr("gan.sample.generate", lambda g, z, y: train.images[: len(z)])
    monkeypatch.setattr(
        "gan.sample.sample_grid", lambda images, *rest: rows.append(images) or images[0].expand(3, -1, -1)
    )
    sample(run_folder, "-n", 6, "--nearest", "--out", "near.png")
    first, nearest = rows[0].unflatten(0, (6, 8))[:, 0], rows[0].unflatten(0, (6, 8))[:, 1]
    assert torch.equal(first, train.images[:6])
    assert torch.equal(nearest, first)


def test_label_sets_the_class_of_all_samples(conditional_folder, monkeypatch):
    labels = []
    monkeypatch.setattr(
        "gan.sample.generate", lambda g, z, y: labels.append(y) or torch.zeros(len(z), 1, 16, 16).byte()
    )
    sample(conditional_folder, "-n", 20, "--label", 3, "--out", "a.png")
    sample(conditional_folder, "-n", 20, "--out", "b.png")
    assert labels[0].tolist() == [3] * 20
    assert len(set(labels[1].tolist())) > 4


def test_sampling_does_not_load_the_dataset(run_folder, monkeypatch):
    def fail(self):
        raise AssertionError("the dataset is loaded")

    monkeypatch.setattr("gan.data.datasets.digits.Digits.load", fail)
    sample(run_folder, "-n", 2, "--out", "grid.png")


@pytest.mark.parametrize("option", ["--out", "--out-dir"])
def test_target_is_checked_before_images_are_drawn(run_folder, option, monkeypatch, capsys):
    monkeypatch.setattr("gan.sample.restore_generator", None)
    assert main([str(run_folder), option, "/proc/new/a.png", *CPU]) == 2
    assert re.fullmatch(rf"error: cannot write to {option} /proc: .*; choose another.*\n", capsys.readouterr().err)


def test_invalid_options_are_one_line_errors(run_folder, tmp_path, capsys):
    (tmp_path / "taken.png").write_text("mine")
    invalid = {
        "already exists": [run_folder, "--out", "taken.png"],
        "a.jpg: images are written as PNG": [run_folder, "--out", "a.jpg"],
        "not conditional": [run_folder, "--label", "1", "--out", "a.png"],
        "must be from 1 to 10,000,000": [run_folder, "-n", "0", "--out", "a.png"],
        "must be at least 0.1": [run_folder, "--truncation", "0", "--out", "a.png"],
        "use --out instead of --out-dir": [run_folder, "--nearest", "--out-dir", "a"],
        "one of the arguments --out --out-dir is required": [run_folder],
        "did you mean 'digits'": [run_folder, "--nearest", "--features", "digit", "--out", "a.png"],
        "contains no run": [tmp_path, "--out", "a.png"],
    }
    for message, arguments in invalid.items():
        capsys.readouterr()
        assert main([*map(str, arguments), *CPU]) == 2
        out, err = capsys.readouterr()
        assert re.fullmatch(rf"error: .*{message}.*\n", err), err
        assert out == ""
    assert (tmp_path / "taken.png").read_text() == "mine"
    assert not (tmp_path / "a.png").exists()
