import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from gan.config import Config
from gan.options.loader import load_config
from gan.run.checkpoint import load
from gan.run.logging import read_metrics
from gan.run.writers.tensorboard_tags import get_name
from models import ImageShape, build_generator
from tests.event_files import read_scalars, read_tags
from tests.gan.runs import load_newest, read_files
from train_gan import main

pytestmark = pytest.mark.usefixtures("short_slope_search")
ROOT = Path(__file__).parent.parent

LAYERS = ("downs.0", "downs.1", "head.linear")
COUNTERS = {"step", "d_steps", "images"}
TAGS = {
    *("loss/D", "loss/G", "logits/real", "logits/fake", "gradient_norm/D", "gradient_norm/G", "speed/images_per_s"),
    *(f"metrics/{name}" for name in ("modes70", "kl70", "confident70", "fd_digits70_test", "is_digits70")),
    "metrics_std/is_digits70",
    *("lipschitz/D/product", "lipschitz/D/gradient_max", "lipschitz/D/gradient_mean"),
    *("lipschitz/D/certified", "lipschitz/D/slope", "lipschitz/G/jacobian_max", "lipschitz/G/jacobian_log_cond"),
    *(f"lipschitz/D/{kind}/{path}" for kind in ("layers", "stable_rank") for path in LAYERS),
}


@pytest.fixture(autouse=True)
def change_to_tmp_path(tmp_path, monkeypatch):
    """Change to a temporary folder, in which runs without --out are created."""
    monkeypatch.chdir(tmp_path)


CHANGED = ["seed=3", "train.steps=6", "checkpoint.keep=2", "optimizer.generator.lr=0.05"]


@pytest.fixture(scope="module")
def changed_run(tmp_path_factory, short_slope_search, tiny_run) -> tuple[Path, str]:
    """The folder of a finished run of a changed config, which tests must not change, and its output."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        folder = tiny_run(tmp_path_factory.mktemp("changed") / "run", *CHANGED)
    return folder, output.getvalue()


def test_run_writes_files(changed_run):
    names = read_files(changed_run[0]).keys()
    (events,) = (name for name in names if name.startswith("events.out.tfevents.") and name.endswith(".v2"))
    assert names - {events, "events.out.tfevents.0.hparams"} == {
        *("config.yaml", "metrics.jsonl", "generator.safetensors", "checkpoints/best.pt"),
        *("checkpoints/step_00000004.pt", "checkpoints/step_00000006.pt"),
        *(f"samples/step_0000000{step}.png" for step in (0, 1, 2, 4, 6)),
        *("samples/latest.png", "samples/real.png"),
    }


def test_metrics_jsonl_and_tensorboard_have_the_same_numbers(finished_run):
    lines = read_metrics(finished_run)
    assert set().union(*lines) == COUNTERS | TAGS
    logarithms = {tag for tag in read_tags(finished_run) if "/log10/" in tag}
    assert read_tags(finished_run) - logarithms == set(map(get_name, TAGS))
    assert read_tags(finished_run, "images") == {"3_samples", "3_samples/real"}
    for tag in TAGS:
        logged = [(line["step"], pytest.approx(line[tag], rel=2e-5)) for line in lines if tag in line]
        assert read_scalars(finished_run, get_name(tag)) == logged


def test_generator_file_can_be_loaded(tmp_path, tiny_run):
    folder = tiny_run(tmp_path / "run", "generator.normalization=spectral", "train.steps=2")
    with safe_open(folder / "generator.safetensors", "pt") as file:
        (tmp_path / "from_metadata.yaml").write_text(file.metadata()["config"])
    config = load_config(Config, tmp_path / "from_metadata.yaml")
    assert config == load_config(Config, folder / "config.yaml")
    generator = build_generator(config.generator, ImageShape(1, 16))
    generator.load_state_dict(load_file(folder / "generator.safetensors"))
    average = load_newest(folder)["G_ema"]
    assert average.keys() == generator.state_dict().keys()
    different = {name for name, tensor in generator.state_dict().items() if not torch.equal(average[name], tensor)}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert different == {f"norms.{i}.{name}" for i in range(2) for name in statistics}


def test_saved_config_includes_overrides(changed_run, tiny_config):
    assert load_config(Config, changed_run[0] / "config.yaml") == load_config(Config, tiny_config, CHANGED)


def test_best_checkpoint_has_best_first_metric(changed_run):
    scores = {
        line["step"]: line["metrics/fd_digits70_test"]
        for line in read_metrics(changed_run[0])
        if "metrics/fd_digits70_test" in line
    }
    best = load(changed_run[0] / "checkpoints" / "best.pt")
    assert best["step"] == min(scores, key=scores.get)


def test_sample_grid_of_stacked_digits_shows_channels(tmp_path, tiny_run, finished_run):
    stacked = "data={name: stacked_digits, size: 20, held_out_size: 20}"
    folder = tiny_run(tmp_path / "run", stacked, "train.steps=1", "eval.metrics=[modes20]")
    with (
        Image.open(folder / "samples" / "step_00000001.png") as colored,
        Image.open(finished_run / "samples" / "step_00000002.png") as gray,
    ):
        assert colored.size[0] > 3.9 * gray.size[0]
        assert colored.size[1] == gray.size[1]


def test_run_prints_results_and_paths(changed_run):
    folder, out = changed_run
    modes = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["metrics/modes70"]
    assert re.search(rf"^modes70 +{modes} +10$", out, re.MULTILINE)
    assert f"run folder:   {folder}" in out
    assert out.endswith(f"tensorboard --logdir {folder} --samples_per_plugin images=100\n")


def test_default_folders_are_numbered_and_newest_is_resumed(tmp_path, tiny_config):
    arguments = ["--config", str(tiny_config), "--device", "cpu", "train.steps=1"]
    assert main(arguments) == 0
    assert main(arguments) == 0
    first, second = (Path("runs") / f"{tmp_path.name}-tiny{suffix}" for suffix in ("", "-2"))
    for age, folder in enumerate((second, first)):
        os.utime(folder / "config.yaml", (10**9 - age, 10**9 - age))
    before = read_files(first)
    assert main([*arguments[:-1], "--resume", "train.steps=2"]) == 0
    assert (second / "checkpoints" / "step_00000002.pt").exists()
    assert read_files(first) == before


INVALID = {
    "unknown key": (["train.stepz=3"], r"train.stepz: unknown key \(known here: steps, .*did you mean 'train.steps'"),
    "wrong type": (["train.steps=many"], "train.steps: must be a whole number, not the string 'many'"),
    "wrong choice": (["loss=hinj"], "loss: unknown loss 'hinj' .*did you mean 'hinge'"),
    "out of range": (["train.steps=0"], "train.steps: must be at least 1, not 0"),
    "not an override": (["faster"], "faster: an override must have the form key.sub=value"),
    "unknown option": (["--fast"], "unrecognized arguments: --fast"),
    "unknown device": (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
    "missing config": (["--config", "gone.yaml"], "cannot read the config file .*gone.yaml: No such file"),
    "folder as config": (["--config", "."], "cannot read the config file .*: a folder; name a file in it"),
    "batch larger than data": (
        ["train.batch_size=1438"],
        r"train.batch_size=1438 is larger than the training set \(1437 images\)",
    ),
    "unknown writer": (["log.to=[tensorbord]"], "log: unknown writer 'tensorbord' .*did you mean 'tensorboard'"),
    "unknown metric": (
        ["eval.metrics=[fd_digit10k_test]"],
        "fd_digit10k_test: unknown feature space 'digit' .*did you mean 'digits'",
    ),
    "metric without protocol": (["eval.metrics=[fid]"], "eval: metrics: 'fid' is not a metric protocol"),
    "duplicate metric": (["eval.metrics=[kl1000, kl1k]"], "eval: metrics: duplicate metric 'kl1k'"),
    "too few real images": (
        ["eval.metrics=[fd_digits10_test361]"],
        "eval.metrics: fd_digits10_test361: digits has 360 images in its test split",
    ),
    "file metric without file": (["eval.metrics=[fd_digits10_file]"], "needs metrics.statistics=FILE"),
    "file without statistics": (
        ["eval.metrics=[fd_digits10_file]", "metrics.statistics=tiny.yaml"],
        "metrics.statistics: cannot read tiny.yaml",
    ),
    "unsupported resolution": (["data.resolution=17"], "generator: no network for 17 x 17 images"),
    "missing data": (["data=cifar10", "eval.metrics=[]"], "data.root: cifar10 is missing or incomplete in 'data'"),
    "nothing to resume": (["--resume"], r"contains no run \(config.yaml is missing\)"),
}


def assert_error(capsys, arguments: list, message: str):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert re.fullmatch(r"(.*: loading the data and the metrics\n)?", out)
    assert re.fullmatch(rf"error: .*{message}.*\n", err), err


@pytest.mark.parametrize(("arguments", "message"), INVALID.values(), ids=INVALID)
def test_invalid_input_is_one_line_and_exit_code_2(tmp_path, tiny_config, capsys, arguments, message):
    before = read_files(tmp_path)
    assert_error(capsys, ["--config", tiny_config, "--device", "cpu", "--out", "out", *arguments], message)
    assert read_files(tmp_path) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is available")
def test_missing_cuda_device_is_an_error(tiny_config, capsys):
    assert_error(capsys, ["--config", tiny_config, "--out", "out", "--device", "cuda"], "finds no CUDA device")
    assert not Path("out").exists()


def test_invalid_out_folder_is_an_error(tmp_path, tiny_config, capsys):
    (tmp_path / "file").write_text("other")
    before = read_files(tmp_path)
    for out, reason in (("file/below", "cannot write to --out .*: Not a directory"), ("x" * 300, "File name too long")):
        assert_error(capsys, ["--config", tiny_config, "--device", "cpu", "--out", out], reason)
    assert read_files(tmp_path) == before


def test_existing_out_folder_is_not_changed(tmp_path, tiny_config, copied_run, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("other")
    before = read_files(tmp_path)
    arguments = ["--config", tiny_config, "--device", "cpu", "--out"]
    assert_error(capsys, [*arguments, copied_run], "already contains a run; add --resume")
    assert_error(capsys, [*arguments, copied_run, "--resume", "seed=5"], r"with another config \(different: seed\)")
    assert_error(capsys, [*arguments, tmp_path / "other"], "is not an empty folder")
    assert_error(capsys, [*arguments, tiny_config], "is not an empty folder")
    assert_error(capsys, [*arguments, tmp_path / "other", "--resume"], "contains no run")
    assert read_files(tmp_path) == before


def test_damaged_checkpoint_is_an_error_and_changes_nothing(tmp_path, copied_run, capsys):
    (copied_run / "checkpoints" / "step_00000004.pt").write_bytes(b"damaged")
    before = read_files(tmp_path)
    arguments = ["--out", copied_run, "--device", "cpu", "--resume", "train.steps=9"]
    assert_error(capsys, arguments, "cannot read the checkpoint")
    assert read_files(tmp_path) == before


def test_help_lists_all_config_keys(capsys):
    assert main(["--help", "all"]) == 0
    out = capsys.readouterr().out
    for text in ("  train.steps  (default: 2000)\n", "normalization 'conv_norm':", "regularizer 'r1':"):
        assert text in out


@pytest.fixture(params=["fork", pytest.param("new interpreter", marks=pytest.mark.slow)])
def run_python(request, python):
    """Return a function that runs `python ARGUMENTS...` in a folder, and returns its exit code and its output."""
    if request.param == "fork":
        return python.run
    return lambda *arguments, cwd: subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, timeout=600
    )


def test_script_runs_in_any_folder(tmp_path, tiny_config, python, run_python):
    command = [str(ROOT / "train_gan.py"), "--config", tiny_config.name, "--out", "run"]
    good = run_python(*command, "--device", "cpu", "train.steps=1", cwd=tmp_path)
    assert (good.returncode, good.stderr) == (0, "")
    assert "step 1/1" in good.stdout
    assert (tmp_path / "run" / "generator.safetensors").exists()
    bad = python.run(*command, cwd=tmp_path)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert (
        bad.stderr == "error: --out run already contains a run; add --resume to continue it, or choose another --out\n"
    )


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_results_with_activation_norm_in_discriminator(tmp_path, tiny_run, capsys, norm):
    tiny_run(tmp_path / "run", f"discriminator.activation_norm={norm}", "train.steps=1")
    out = capsys.readouterr().out
    assert ("(not affine)" in out) == (norm != "batch")
    product = next(line for line in out.splitlines() if line.startswith("D: product"))
    assert product.endswith("none") == (norm != "batch")


def test_conditional_run_is_audited(tmp_path, tiny_run, capsys):
    folder = tiny_run(tmp_path / "run", "data.conditional=true", "train.steps=1")
    assert any("lipschitz/D/certified" in line for line in read_metrics(folder))
