import re

import numpy as np
import pytest
import torch

from gan.runtime.weights import read_weights
from gan.sample.__main__ import main
from gan.sample.latents import STEPS
from tests.gan.sample.pictures import pixels, sample

pytestmark = pytest.mark.usefixtures("short_slope_search")

CPU = ["--device", "cpu"]


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


@pytest.fixture
def drawn(monkeypatch):
    """Return a list of the latents and labels of which the command generates images."""
    drawn = []

    def generate(generator, z, y):
        drawn.append((z, y))
        return torch.zeros(len(z), 1, 16, 16).byte()

    monkeypatch.setattr("gan.sample.__main__.generate", generate)
    return drawn


def test_truncated_latents_are_within_the_threshold(run_folder, drawn):
    sample(run_folder, "-n", 200, "--truncation", 0.7, "--out", "a.png")
    sample(run_folder, "-n", 200, "--out", "b.png")
    (truncated, _), (z, _) = drawn
    assert truncated.abs().max() <= 0.7 < z.abs().max()
    assert truncated.std() > 0.3


def test_interpolations_are_rows_of_the_grid(run_folder):
    sample(run_folder, "-n", 3, "--interpolate", "--out", "rows.png")
    assert pixels("rows.png").shape == (3 * 51 + 3, STEPS * 51 + 3, 3)


def test_label_sets_the_class_of_all_samples(conditional_folder, drawn):
    sample(conditional_folder, "-n", 20, "--label", 3, "--out", "a.png")
    sample(conditional_folder, "-n", 20, "--out", "b.png")
    (_, given), (_, labels) = drawn
    assert given.tolist() == [3] * 20
    assert len(set(labels.tolist())) > 4


def test_sampling_does_not_load_the_dataset(run_folder, monkeypatch):
    def fail(self):
        raise AssertionError("the dataset is loaded")

    monkeypatch.setattr("gan.data.datasets.digits.Digits.load", fail)
    sample(run_folder, "-n", 2, "--out", "grid.png")


def test_weights_of_a_file_are_read_once(run_folder, monkeypatch):
    read = []
    monkeypatch.setattr(
        "gan.training.generator_file.read_weights", lambda path: read.append(path) or read_weights(path)
    )
    sample(run_folder / "generator.safetensors", "-n", 2, "--out", "grid.png")
    assert len(read) == 1


@pytest.mark.parametrize("option", ["--out", "--out-dir"])
def test_target_is_checked_before_images_are_drawn(run_folder, option, monkeypatch, capsys):
    monkeypatch.setattr("gan.sample.__main__.restore_generator", None)
    assert main([str(run_folder), option, "/proc/new/a.png", *CPU]) == 2
    assert re.fullmatch(rf"error: cannot write to {option} /proc: .*; choose another.*\n", capsys.readouterr().err)


def test_link_to_nothing_is_not_replaced_and_an_empty_folder_is_used(run_folder, tmp_path, capsys):
    (tmp_path / "link.png").symlink_to("gone.png")
    assert main([str(run_folder), "--out", "link.png", *CPU]) == 2
    assert "link.png already exists; add --force to replace it" in capsys.readouterr().err
    assert (tmp_path / "link.png").is_symlink()
    (tmp_path / "images").mkdir()  # as after a full disk
    sample(run_folder, "-n", 2, "--out-dir", "images")
    assert len([*(tmp_path / "images").iterdir()]) == 2
    assert main([str(run_folder), "-n", "2", "--out-dir", "images", *CPU]) == 2


def test_force_replaces_what_is_there(run_folder, tmp_path, capsys):
    sample(run_folder, "-n", 2, "--out", "a.png", "--seed", 1)
    sample(run_folder, "-n", 2, "--out", "b.png")
    sample(run_folder, "-n", 2, "--out", "a.png", "--force")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    sample(run_folder, "-n", 3, "--out-dir", "images", "--seed", 1)
    sample(run_folder, "-n", 3, "--out-dir", "images", "--force")
    sample(run_folder, "-n", 3, "--out-dir", "others")
    for path in (tmp_path / "others").iterdir():
        assert path.read_bytes() == (tmp_path / "images" / path.name).read_bytes()
    assert main([str(run_folder), "-n", "2", "--out-dir", "images", "--force", *CPU]) == 2  # would leave an old image
    assert "images/000002.png is none of the images that would be written; remove it" in capsys.readouterr().err
    (tmp_path / "folder.png").mkdir()
    assert main([str(run_folder), "--out", "folder.png", "--force", *CPU]) == 2
    assert "not a regular file" in capsys.readouterr().err


def test_invalid_options_are_one_line_errors(run_folder, tmp_path, capsys):
    (tmp_path / "taken.png").write_text("mine")
    invalid = {
        "already exists": [run_folder, "--out", "taken.png"],
        r"--out a.jpg: the name must end in .png \(see": [run_folder, "--out", "a.jpg"],
        "--features is an option of --nearest": [run_folder, "--features", "digits", "--out", "a.png"],
        r"contains a run with another config \(different: seed\); leave these keys out": [
            run_folder,
            "seed=7",
            "--out",
            "a.png",
        ],
        "--seed cannot be combined with --video training": [
            *(run_folder, "--video", "training", "--seed", 0, "--out", "a.gif"),
        ],
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
