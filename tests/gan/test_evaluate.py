import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan.data.datasets.digits import Digits
from gan.evaluate import evaluate_seed, main
from gan.run.evaluations import Evaluations
from gan.run.logging import read_metrics
from gan.runtime.files import WriteError
from gan.training.generator_file import load_generator
from tests.gan.runs import load_newest
from tests.gan.weights import change_metadata

CPU = ["--device", "cpu"]
NAME = "fd_digits70_test"


@pytest.fixture
def run_folder(tmp_path, copied_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return copied_run


def evaluate(*arguments):
    assert main([*map(str, arguments), *CPU]) == 0


def read_results(folder):
    return json.loads((folder / "evaluation.json").read_text())


def test_first_seed_reproduces_the_logged_metrics(run_folder, capsys):
    evaluate(run_folder)
    logged = read_metrics(run_folder)[-1]
    entry = read_results(run_folder)["step_00000004"]
    assert {name: values["0"] for name, values in entry.items()} == {
        tag.removeprefix("metrics/"): value for tag, value in logged.items() if tag.startswith("metrics/")
    }
    assert re.search(rf"^{NAME} +{entry[NAME]['0']:.6g} +1$", capsys.readouterr().out, re.MULTILINE)


def test_several_seeds_have_a_mean_and_a_standard_deviation(run_folder, capsys):
    evaluate(run_folder, "--seeds", 3, "--metrics", NAME)
    values = [read_results(run_folder)["step_00000004"][NAME][str(seed)] for seed in range(3)]
    assert len(set(values)) == 3
    mean, std = np.mean(values), np.std(values, ddof=1)
    assert re.search(rf"^{NAME} +{mean:.6g} +{std:.3g} +3$", capsys.readouterr().out, re.MULTILINE)


def test_generator_file_has_the_metrics_of_its_run_folder(run_folder, capsys):
    file = run_folder / "generator.safetensors"
    evaluate(file, "--seeds", 2, "--out", "file.json")
    assert not (run_folder / "evaluation.json").exists()
    evaluate(run_folder, "--seeds", 2)
    assert json.loads(Path("file.json").read_text()) == read_results(run_folder)


def test_existing_path_with_an_equals_sign_is_no_override(run_folder, folders, tmp_path):
    run = run_folder.rename(tmp_path / "conv_norm,stride=paper-seed0")
    names = [folder.rename(tmp_path / f"seed={number}").name for number, folder in enumerate(folders)]
    evaluate(run.name, "--metrics", "kl30")
    evaluate("log.every=3", run.name, "--metrics", "kl40")
    assert list(read_results(run)["step_00000004"]) == ["kl30", "kl40"]
    evaluate(run / "generator.safetensors", "log.every=3", "--metrics", "kl30", "--out", "file.json")
    evaluate("--images", *names, "metrics.download=false", "--metrics", "modes", "--out", "scores.json")
    assert json.loads(Path("scores.json").read_text())["images"] == names


def test_generator_file_is_evaluated_only_on_its_own_experiment(run_folder, capsys):
    file = str(run_folder / "generator.safetensors")
    assert main([file, "data={name: stacked_digits}", *CPU]) == 2
    assert "contains a run with another config (different: data.name" in capsys.readouterr().err
    assert main([file, "--checkpoint", "best", *CPU]) == 2
    assert "--checkpoint is an option for run folders" in capsys.readouterr().err


def test_generator_file_is_not_evaluated_on_changed_images(run_folder, capsys):
    file = run_folder / "generator.safetensors"
    contents = load_generator(file).contents
    assert contents == load_newest(run_folder)["data"]
    change_metadata(file, data=json.dumps(contents | {"training": [1437, "0"]}))
    assert main([str(file), *CPU]) == 2
    assert f"error: {file}: the training images have changed since the run began" in capsys.readouterr().err
    evaluate(file, "data.allow_changes=true", "--metrics", "kl30", "--out", "file.json")


def test_standard_deviation_over_parts_is_logged_and_printed(run_folder, capsys):
    evaluate(run_folder, "--metrics", NAME, "is_digits70")
    logged, results = read_metrics(run_folder)[-1], read_results(run_folder)
    std = results["std"]["step_00000004"]["is_digits70"]["0"]
    assert 0 < std == logged["metrics_std/is_digits70"]
    assert f"metrics_std/{NAME}" not in logged
    value = results["step_00000004"]["is_digits70"]["0"]
    output = capsys.readouterr().out
    assert re.search(rf"^is_digits70 +{value:.6g} ± {std:.2g} +1$", output, re.MULTILINE)
    assert "±: standard deviation over the splits (IS) or the subsets (KID)" in output


def test_results_are_added_to_the_file(run_folder):
    evaluate(run_folder, "--seeds", 2, "--metrics", "kl30")
    before = read_results(run_folder)["step_00000004"]
    evaluate(run_folder, "--metrics", "kl40")
    after = read_results(run_folder)["step_00000004"]
    assert after["kl30"] == before["kl30"]
    assert list(after) == ["kl30", "kl40"]


def test_numbers_are_printed_and_kept_as_they_come(run_folder, monkeypatch, capsys):
    seeds = []

    def evaluate_two_seeds(G, inputs, evaluator, seed):
        if seed == 2:
            raise KeyboardInterrupt
        seeds.append(evaluate_seed(G, inputs, evaluator, seed))
        return seeds[-1]

    monkeypatch.setattr("gan.evaluate.evaluate_seed", evaluate_two_seeds)
    assert main([str(run_folder), "--seeds", "50", "--metrics", NAME, "kl30", *CPU]) == 130
    assert read_results(run_folder)["step_00000004"] == {
        name: {str(seed): seeds[seed][name] for seed in (0, 1)} for name in (NAME, "kl30")
    }
    lines = [f"seed {seed}: {NAME} {values[NAME]:.6g}, kl30 {values['kl30']:.6g}" for seed, values in enumerate(seeds)]
    assert capsys.readouterr().out.splitlines()[-2:] == lines


def test_numbers_of_a_full_disk_are_printed(run_folder, monkeypatch, capsys):
    def fill_disk(path, value):
        raise WriteError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("gan.run.evaluations.write_json", fill_disk)
    assert main([str(run_folder), "--metrics", "modes70", *CPU]) == 2
    out, err = capsys.readouterr()
    assert re.search(r"^seed 0: modes70 \d+$", out, re.MULTILINE)
    assert err == f"error: cannot write {run_folder}/evaluation.json: No space left on device\n"


def test_evaluations_at_the_same_time_keep_the_results_of_all(run_folder, monkeypatch):
    other = Evaluations(run_folder / "evaluation.json", None)

    def evaluate_beside_another(G, inputs, evaluator, seed):
        other.add("step_00000004", 7, {"kl30": 0.5}, {"kl30": "x"})
        return evaluate_seed(G, inputs, evaluator, seed)

    monkeypatch.setattr("gan.evaluate.evaluate_seed", evaluate_beside_another)
    evaluate(run_folder, "--metrics", "kl30", "--seeds", 2)
    assert sorted(read_results(run_folder)["step_00000004"]["kl30"]) == ["0", "1", "7"]
    assert not list(run_folder.glob("*.lock"))


@pytest.mark.parametrize("target", ["folder", "pipe", "/proc/folder/x.json", "file/x.json"])
def test_target_is_checked_before_anything_is_computed(run_folder, tmp_path, target, monkeypatch, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for name in ("restore_experiment", "compare_folders"):
        monkeypatch.setattr(f"gan.evaluate.{name}", None)
    for what in ([run_folder, "--metrics", "kl30"], ["--images", tmp_path, tmp_path]):
        assert main([*map(str, what), "--out", target, *CPU]) == 2
        assert re.fullmatch(r"error: .*(folder|pipe|file|/proc).*; .*choose another.*\n", capsys.readouterr().err)


def test_target_of_statistics_is_checked_before_features_are_extracted(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gan.evaluate.save_statistics", None)
    (tmp_path / "old.npz").touch()
    for name in ("old.npz", "old.npz/new.npz", "/proc/new.npz"):
        assert main(["--images", str(folders[1]), "--save-statistics", str(tmp_path / name), *CPU]) == 2
        assert re.fullmatch(r"error: .*--save-statistics .*; choose another.*\n", capsys.readouterr().err)


def test_num_samples_overrides_the_counts_of_the_metrics(run_folder):
    evaluate(run_folder, "--num-samples", 80)
    assert "fd_digits80_test" in read_results(run_folder)["step_00000004"]


def test_processes_of_a_job_compute_the_numbers_of_one(run_folder, python, capsys):
    job = python.run_job("-m", "gan.evaluate", run_folder, *CPU, "--out", "job.json", "--num-samples", 300)
    assert job.returncode == 0, job.stderr
    evaluate(run_folder, "--out", "single.json", "--num-samples", 300)
    assert job.stdout.replace("job.json", "single.json") == capsys.readouterr().out
    assert Path("job.json").read_text() == Path("single.json").read_text()


def test_best_checkpoint(run_folder):
    best = min(
        (line for line in read_metrics(run_folder) if f"metrics/{NAME}" in line),
        key=lambda line: line[f"metrics/{NAME}"],
    )
    evaluate(run_folder, "--checkpoint", "best", "--metrics", NAME)
    step = f"step_{best['step']:08d}"
    assert read_results(run_folder)[step] == {NAME: {"0": best[f"metrics/{NAME}"]}}


def test_metrics_in_the_file_are_not_computed_again(run_folder, monkeypatch, capsys):
    seeds, computed = [], []

    def evaluate_and_note(G, inputs, evaluator, seed):
        seeds.append(seed)
        computed.append([*map(str, evaluator.protocols)])
        return evaluate_seed(G, inputs, evaluator, seed)

    monkeypatch.setattr("gan.evaluate.evaluate_seed", evaluate_and_note)
    evaluate(run_folder, "--metrics", "is_digits70", "--seeds", 2)
    before, table = read_results(run_folder), capsys.readouterr().out.partition("\n\n")[2]
    evaluate(run_folder, "--metrics", "is_digits70", "--seeds", 2)
    assert (seeds, read_results(run_folder)) == ([0, 1], before)
    out = capsys.readouterr().out
    assert f"\n2 of 2 values are not computed again: {run_folder}/evaluation.json has them\n" in out
    assert out.endswith(table)
    evaluate(run_folder, "--metrics", "is_digits70", "--seeds", 3)
    evaluate(run_folder, "--metrics", "is_digits70", "kl30")
    evaluate(run_folder, "--metrics", "is_digits70", "eval.standing_statistics=30")
    assert seeds == [0, 1, 2, 0, 0]
    assert computed == [["is_digits70"]] * 3 + [["kl30"], ["is_digits70"]]
    assert list(read_results(run_folder)["step_00000004"]) == ["is_digits70", "kl30"]
    evaluate(run_folder, "--metrics", NAME, "is_digits70", "eval.standing_statistics=30")
    out = capsys.readouterr().out
    assert computed[5:] == [[NAME]]
    assert "\n1 of 2 values are not computed again: " in out
    assert re.search(rf"^seed 0: {NAME} \S+, is_digits70 \S+ ± \S+$", out, re.MULTILINE)


def test_metrics_of_another_version_are_computed_again(run_folder, monkeypatch, capsys):
    def count_known() -> int:
        capsys.readouterr()
        evaluate(run_folder, "--metrics", "kl30")
        return int("1 of 1 values are not computed again" in capsys.readouterr().out)

    assert (count_known(), count_known()) == (0, 1)
    monkeypatch.setattr("gan.evaluate.__version__", "9.0", raising=False)
    assert (count_known(), count_known()) == (0, 1)
    monkeypatch.setattr("gan.evaluate.VALUES", "version 9", raising=False)
    assert (count_known(), count_known()) == (0, 1)
    monkeypatch.setattr("gan.evaluate.versions", lambda: {"torch": "9.0"}, raising=False)
    assert (count_known(), count_known()) == (0, 1)


def test_evaluation_writes_only_its_results(run_folder, tmp_path):
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    evaluate(run_folder, "--out", tmp_path / "results.json", "--metrics", "kl30")
    assert {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()} == before
    assert json.loads((tmp_path / "results.json").read_text())["step_00000004"]["kl30"]


@pytest.fixture
def folders(tmp_path):
    """Training and held-out digits as PNG files in subfolders."""
    splits = Digits(resolution=16).load()
    for name, part in (("fake", splits.train.images[:150]), ("real", splits.held_out.images[:200])):
        for number, image in enumerate(part):
            path = tmp_path / name / str(number % 3) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(path)
    return tmp_path / "fake", tmp_path / "real"


def test_compare_two_folders(folders, capsys, tmp_path):
    fake, real = folders
    names = ["fd_digits", "kid_digits", "precision_digits", "modes", "is_digits"]
    evaluate("--images", fake, real, "--metrics", *names, "--out", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())["metrics"]
    assert list(scores) == ["fd_digits150", "kid_digits150", "precision_digits150", "modes150", "is_digits150"]
    assert scores["modes150"] == 10
    assert 0 < scores["fd_digits150"] < 10
    std = json.loads((tmp_path / "scores.json").read_text())["std"]
    assert list(std) == ["kid_digits150", "is_digits150"]
    lines = capsys.readouterr().out.splitlines()
    assert f"Fréchet distance (fd_digits150): {scores['fd_digits150']:.6g}" in lines
    assert f"Inception score (is_digits150): {scores['is_digits150']:.6g} ± {std['is_digits150']:.2g}" in lines
    assert len(lines) == len(names)


def test_json_is_all_that_is_printed(folders, run_folder, tmp_path, capsys):
    images = ["--images", *folders, "--metrics", "fd_digits", "is_digits", "--resize", 8]
    evaluate(*images, "--json", "--out", tmp_path / "scores.json")
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads((tmp_path / "scores.json").read_text())
    assert "Fréchet distance" in err
    evaluate(run_folder, "--metrics", NAME, "is_digits70", "--seeds", 2, "--json")
    printed, saved = json.loads(capsys.readouterr().out), read_results(run_folder)
    assert printed == {
        "run": str(run_folder),
        "step": 4,
        "metrics": saved["step_00000004"],
        "std": saved["std"]["step_00000004"],
    }


def test_distance_of_equal_folders_is_zero(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "copy")
    evaluate("--images", folders[0], tmp_path / "copy", "--metrics", "fd_digits", "--out", tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["metrics"]["fd_digits150"] == pytest.approx(0, abs=1e-6)


def test_invalid_options_are_one_line_errors(run_folder, folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    fake, real = folders
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "odd.json").write_text('{"step_00000004": {"kl30": 5}}')
    (tmp_path / "empty").mkdir()
    wide = tmp_path / "wide"
    shutil.copytree(real, wide)
    Image.new("L", (8, 16)).save(wide / "0" / "0.png")
    corrupt = tmp_path / "corrupt"
    shutil.copytree(real, corrupt)
    (corrupt / "1" / "1.png").write_bytes(b"no image")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "0.png").write_text("no image")
    (tmp_path / "one").mkdir()
    shutil.copy(real / "0" / "0.png", tmp_path / "one" / "0.png")
    invalid = {
        "give either one run folder or --images": [],
        "not a metric protocol": [run_folder, "--metrics", "fid"],
        "unknown feature space 'digit'": [run_folder, "--metrics", "fd_digit10_test"],
        "the weights of Inception are missing; set metrics": [run_folder, "--metrics", "fid50_train"],
        "at least 2 images": [run_folder, "--num-samples", 1],
        "--seeds 0: must be from 1 to 1000": [run_folder, "--seeds", 0],
        "--seeds 1000000000000: must be": [run_folder, "--seeds", 10**12],
        "at most 10,000,000 images": [run_folder, "--num-samples", 10**12],
        "at most 100 metrics are possible, not 80,000": [run_folder, "--metrics", *["modes10"] * 80_000],
        "at most 100 metrics .*": ["--images", fake, real, "--metrics", *["modes"] * 101],
        r"--resize 0: must be from 1 to 4096": ["--images", fake, real, "--resize", 0],
        "--resize, .* are options of --images": [run_folder, "--resize", 16],
        "--save-statistics are options of --images": [run_folder, "--save-statistics", tmp_path / "x.npz"],
        "--num-samples cannot be combined with --images": ["--images", fake, real, "--num-samples", 10],
        "--seeds cannot be combined with --images": ["--images", fake, real, "--seeds", 3],
        "--checkpoint cannot be combined with --images": ["--images", fake, real, "--checkpoint", "best"],
        "--metrics cannot be .* --save-statistics": [
            "--images",
            real,
            "--save-statistics",
            "a.npz",
            "--metrics",
            "fid",
        ],
        "--json cannot be .* --save-statistics": ["--images", real, "--save-statistics", "a.npz", "--json"],
        "the name must end in .npz": ["--images", real, "--save-statistics", tmp_path / "statistics"],
        "the path is empty": ["--images", "", real],
        "'fd_digits50_train0': fd needs at least 2 images": [run_folder, "--metrics", "fd_digits50_train0"],
        "cannot add results to .*odd.json: it has other": [
            run_folder,
            "--metrics",
            "kl30",
            "--out",
            tmp_path / "odd.json",
        ],
        "'is_digits1': is needs at least 10 images": ["--images", tmp_path / "one", real, "--metrics", "is_digits"],
        "the home folder in '~nobody-here/x' is unknown": ["--images", "~nobody-here/x", real],
        "none of the 1 images in .*/text' can be read": ["--images", tmp_path / "text", real, "--skip-corrupt"],
        "cannot add results to .*broken.json": [run_folder, "--metrics", "kl30", "--out", tmp_path / "broken.json"],
        r"with another config \(different: seed\)": [run_folder, "seed=7"],
        "contains no run": [tmp_path],
        "needs two folders": ["--images", fake],
        "the weights of Inception are missing": ["--images", fake, real],
        "--images: no images in": ["--images", fake, tmp_path / "empty", "--metrics", "modes"],
        "differs from .* in size or channels": ["--images", fake, wide, "--metrics", "fd_digits"],
        r"cannot read the image .*1\.png": ["--images", fake, corrupt, "--metrics", "fd_digits"],
        "fd_digits150: .*at least 2 features": ["--images", fake, tmp_path / "one", "--metrics", "fd_digits"],
        "unknown metric 'fod'": ["--images", fake, real, "--metrics", "fod"],
        "unknown key": ["--images", fake, real, "data.root=x"],
        "metrics.inception_weights: .*gone.pth": [
            "--images",
            fake,
            real,
            "--metrics",
            "fid",
            "metrics.inception_weights=gone.pth",
        ],
    }
    for message, arguments in invalid.items():
        capsys.readouterr()
        assert main([*map(str, arguments), *CPU]) == 2
        assert re.search(rf"^error: .*{message}.*\n$", capsys.readouterr().err, re.MULTILINE), message
    assert (tmp_path / "broken.json").read_text() == "{"
