"""What is in the place of a run's files is reported before the run computes anything, all of it at once."""

import os

import pytest

from classification.config import Config as ClassifierConfig
from classification.start import check_start as check_classifier_start
from gan.compare.__main__ import main as compare
from gan.config import Config
from gan.data.datasets.digits import StackedDigits
from gan.run.folder import config_path
from gan.run.obstacles import find_obstacles
from gan.training.start import check_start
from train_gan import main


def make_file(path):
    path.parent.mkdir(exist_ok=True)
    path.touch()


def make_folder(path):
    path.mkdir(parents=True)


def make_pipe(path):
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)


OBSTACLES = {
    "samples": (make_file, "is not a folder"),
    "checkpoints": (lambda path: path.symlink_to("nowhere"), "is not a folder"),
    "checkpoints/step_00000003.pt": (make_folder, "is a folder"),
    "checkpoints/best.pt": (make_folder, "is a folder"),
    "samples/step_00000003.png": (make_folder, "is a folder"),
    "NETWORK": (make_folder, "is a folder"),
    "metrics.jsonl": (make_pipe, "is not a regular file"),
    "divergence.json": (lambda path: path.symlink_to(path.name), "is not a regular file"),
}


@pytest.mark.parametrize("name", OBSTACLES)
@pytest.mark.parametrize(
    ("check", "config", "network"),
    [
        (check_start, Config(), "generator.safetensors"),
        (check_classifier_start, ClassifierConfig(), "classifier.safetensors"),
    ],
)
def test_obstacle_is_missing_at_the_start(tmp_path, name, check, config, network):
    make, reason = OBSTACLES[name]
    name = name.replace("NETWORK", network)
    make(tmp_path / name)
    (line,) = check(config, tmp_path, "cpu", config).missing
    assert str(tmp_path / name) in line
    assert reason in line


def test_files_that_are_replaced_are_no_obstacles(tmp_path):
    for name in ("samples/notes", "checkpoints/step_00000001.pt", "metrics.jsonl", "generator.safetensors"):
        make_file(tmp_path / name)
    make_pipe(tmp_path / "checkpoints" / "step_00000002.pt")
    make_folder(tmp_path / "samples" / "my copies")
    (tmp_path / "divergence.json").symlink_to("nothing")
    assert find_obstacles(tmp_path, 100, "generator.safetensors") == []
    assert find_obstacles(tmp_path / "new", 100, "generator.safetensors") == []


def test_folders_that_the_run_does_not_replace_are_no_obstacles(tmp_path):
    make_file(tmp_path / "checkpoints" / "step_00000004.pt")
    for name in ("checkpoints/mine.pt", "mine.safetensors", "classifier.safetensors", "samples/mine.png"):
        make_folder(tmp_path / name)
    for step in (3, 5, 9, 10, 99):
        make_folder(tmp_path / "checkpoints" / f"step_{step:08d}.pt")
        make_folder(tmp_path / "samples" / f"step_{step:08d}.png")
    lines = find_obstacles(tmp_path, 9, "generator.safetensors")
    assert len(lines) == 4
    for name in ("checkpoints/step_00000005.pt", "checkpoints/step_00000009.pt"):
        assert any(line.startswith(f"{tmp_path}/{name} is a folder") for line in lines)
    for name in ("samples/step_00000005.png", "samples/step_00000009.png"):
        assert any(line.startswith(f"{tmp_path}/{name} is a folder") for line in lines)


def test_all_obstacles_are_reported_at_once(copied_run, monkeypatch, capsys):
    monkeypatch.setattr("train_gan.build_experiment", None)  # nothing is computed
    (copied_run / "generator.safetensors").unlink()
    (copied_run / "generator.safetensors").mkdir()
    (copied_run / "checkpoints" / "step_00000009.pt").mkdir()
    (copied_run / "divergence.json").mkdir()
    assert main(["--out", str(copied_run), "--device", "cpu", "--resume", "train.steps=9"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error: ") and str(copied_run) in line for line in lines)


@pytest.mark.parametrize("text", ["", "\n# note\n", "{}\n"])
def test_empty_config_is_that_of_no_run(copied_run, text, capsys):
    (copied_run / "config.yaml").write_text(text)
    assert main(["--out", str(copied_run), "--device", "cpu", "--resume"]) == 2
    assert f"error: {copied_run}/config.yaml is empty; restore it" in capsys.readouterr().err
    assert (copied_run / "config.yaml").read_text() == text


def test_config_that_is_cut_is_that_of_no_run(copied_run, capsys):
    path = copied_run / "config.yaml"
    text = path.read_text()
    for end in (text.index("\ntrain:") + 1, text.index("\ncheckpoint:") + 1, len(text) - 5):
        path.write_text(text[:end])
        for command, options in (
            (main, ["--out", str(copied_run), "--device", "cpu", "--resume"]),
            (main, ["--config", str(path), "--out", str(copied_run / "new"), "--device", "cpu"]),
            (main, ["--config", str(path), "--print-config"]),
            (compare, [str(path)]),
        ):
            assert command(options) == 2
            err = capsys.readouterr().err
            assert f"error: {path} is cut, because its last line '...' is missing; restore it" in err
    assert path.read_text() == text[:end]
    for whole in (text, f"{text}\n", text.replace("---\n", "").replace("...\n", "")):  # the last is of earlier versions
        path.write_text(whole)
        assert config_path(copied_run) == path


def test_images_that_do_not_fit_into_the_memory_are_missing_at_the_start(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gan.runtime.memory.get_total_memory", lambda: 16e9)
    (line,) = StackedDigits(size=10**8).missing()
    assert line == (
        "data: the images need 82.4 GB of memory, but there are 16.0 GB; choose a smaller data.size,"
        " data.held_out_size or data.resolution"
    )
    assert (
        main(["--out", str(tmp_path / "run"), "--device", "cpu", "data={name: stacked_digits, size: 100000000}"]) == 2
    )
    assert line in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert StackedDigits().missing() == []
