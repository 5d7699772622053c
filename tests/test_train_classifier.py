import contextlib
import io
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from classification import evaluate, loop
from classification.build import build_experiment
from classification.config import Config
from gan.compare.__main__ import main as compare
from gan.compare.csv_files import read_table
from gan.data.datasets.digits import Digits
from gan.evaluation.extractors.base import MetricsConfig, build_extractor
from gan.options.loader import load_config
from gan.run.checkpoint import load
from gan.run.logging import read_metrics
from gan.run.writers.tensorboard_tags import get_name
from models import ImageShape
from tests.event_files import read_tags
from tests.gan.runs import Killed, assert_same_runs, load_newest, read_files, read_numbers
from train_classifier import main

pytestmark = pytest.mark.usefixtures("short_slope_search")
ROOT, CPU = Path(__file__).parent.parent, torch.device("cpu")
TINY = """\
data: {name: digits, resolution: 8}
labels: {noise: 0.2}
classifier: {name: resnet10, width: 2, normalization: spectral}
regularizers: {ocnn: {weight: 0.001, every: 2}}
train: {steps: 4, batch_size: 8, augment: [translation], free: {replays: 3, eps: 8, step: 8}}
log: {every: 1}
eval: {every: 2, attack: {eps: 16, iterations: 2}, corruptions: [gaussian_blur]}
lipschitz: {every: 2, audit_every: 4, iterations: 2}
checkpoint: {every: 2, keep: 2}
"""
TAGS = {
    *("loss/train", "accuracy/train", "gradient_norm/classifier", "speed/images_per_s"),
    *(f"metrics/accuracy_{name}" for name in ("validation", "test", "fgsm16", "pgd16_2x1")),
    "metrics/accuracy_gaussian_blur",
    *(f"corruptions/gaussian_blur/{severity}" for severity in range(1, 6)),
    *(f"lipschitz/classifier/{name}" for name in ("certified", "product", "slope", "gradient_max", "gradient_mean")),
}


@pytest.fixture(autouse=True)
def change_to_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def train(tmp_path_factory, short_slope_search):
    """Return a function that trains the tiny config into a folder, with further command line arguments."""
    config = tmp_path_factory.mktemp("config") / "tiny.yaml"
    config.write_text(TINY)

    def train_tiny(out: Path, *arguments: str) -> Path:
        assert main(["--config", str(config), "--out", str(out), "--device", "cpu", *arguments]) == 0
        return out

    return train_tiny


@pytest.fixture(scope="module")
def trained_with_output(tmp_path_factory, train) -> tuple[Path, str]:
    """Return the folder of a finished run of the tiny config, which tests must not change, and its output."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        folder = train(tmp_path_factory.mktemp("trained") / "run")
    return folder, output.getvalue()


@pytest.fixture(scope="module")
def trained(trained_with_output) -> Path:
    """Return the folder of a finished run of the tiny config. Tests must not change it."""
    return trained_with_output[0]


@pytest.fixture
def without_audit(monkeypatch):
    """Leave out the full audit after the last step, which takes longer than the training."""
    monkeypatch.setattr("classification.lipschitz.audit_lipschitz", lambda *arguments: ({}, {}))


FIVE_STEPS = ["train.steps=5", "checkpoint.every=1", "checkpoint.keep=9"]


@pytest.fixture(scope="module")
def trained_for_five_steps(tmp_path_factory, train) -> Path:
    """Return the folder of a finished run with a checkpoint of each step. Tests must not change it."""
    return train(tmp_path_factory.mktemp("trained") / "run", *FIVE_STEPS)


def test_run_writes_files_and_prints_results(trained_with_output):
    folder, out = trained_with_output
    names = read_files(folder).keys()
    (events,) = (name for name in names if name.startswith("events.out.tfevents.") and name.endswith(".v2"))
    assert names - {events, "events.out.tfevents.0.hparams"} == {
        *("config.yaml", "metrics.jsonl", "classifier.safetensors", "checkpoints/best.pt"),
        *("checkpoints/step_00000002.pt", "checkpoints/step_00000004.pt"),
    }
    numbers = read_metrics(folder)[-1]
    for name, tag in (("test images", "test"), ("FGSM, eps 16/255", "fgsm16"), ("gaussian_blur", "gaussian_blur")):
        (line,) = (line for line in out.splitlines() if line.startswith(name))
        assert line.endswith(f"{numbers[f'metrics/accuracy_{tag}']:.1f}")
    assert "images: 1295 training, 142 validation, 360 test" in out
    assert out.endswith(f"tensorboard --logdir {folder} --samples_per_plugin images=100\n")


def test_metrics_jsonl_and_tensorboard_have_the_same_tags(trained):
    lines = read_metrics(trained)
    tags = set().union(*lines) - {"step", "images"}
    layer_tags = {tag for tag in tags if "/layers/" in tag or "/stable_rank/" in tag}
    assert tags - layer_tags == TAGS
    assert "lipschitz/classifier/layers/network.layer4.0.conv2" in layer_tags
    assert {tag for tag in read_tags(trained) if "/log10/" not in tag} == set(map(get_name, tags))
    assert {line["step"] for line in lines if "metrics/accuracy_test" in line} == {4}, "only after the last step"
    assert [line["images"] for line in lines] == [8, 16, 24, 32]


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(1, id="between replays of a batch", marks=pytest.mark.slow),
        pytest.param(4, id="after a validation"),
    ],
)
def test_resume_is_bit_equal(tmp_path, train, trained_for_five_steps, event_files_in_order, step):
    resumed = shutil.copytree(trained_for_five_steps, tmp_path / "resumed")
    for later in range(step + 1, 6):
        (resumed / "checkpoints" / f"step_{later:08d}.pt").unlink()
    assert load_newest(resumed)["step"] == step
    train(resumed, *FIVE_STEPS, "--resume")
    assert load_newest(trained_for_five_steps)["delta"].any()
    assert_same_runs(trained_for_five_steps, resumed)


@pytest.mark.parametrize("step", [pytest.param(2, id="validation", marks=pytest.mark.slow), pytest.param(4, id="test")])
def test_resume_repeats_missing_evaluation(tmp_path, train, trained, monkeypatch, step):
    def evaluate_or_fail(experiment, recorder):
        if experiment.step == step:
            raise Killed
        evaluate_experiment(experiment, recorder)

    evaluate_experiment = loop.evaluate
    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", evaluate_or_fail)
        with pytest.raises(Killed):
            train(tmp_path / "killed")
    assert load_newest(tmp_path / "killed")["step"] == step
    last = read_numbers(tmp_path / "killed")[-1]
    assert last["step"] == step
    assert "loss/train" in last
    assert not any(tag.startswith("metrics/") for tag in last)
    train(tmp_path / "killed", "--resume")
    assert_same_runs(trained, tmp_path / "killed")


def test_resume_of_finished_run_evaluates_another_attack(tmp_path, trained, capsys):
    shutil.copytree(trained, tmp_path / "run")
    assert main(["--out", str(tmp_path / "run"), "--device", "cpu", "--resume", "eval.attack.eps=8"]) == 0
    assert "FGSM, eps 8/255" in capsys.readouterr().out
    last = read_metrics(tmp_path / "run")[-1]
    assert {"metrics/accuracy_fgsm8", "metrics/accuracy_fgsm16"} <= last.keys()


def test_weights_file_can_be_loaded(tmp_path, trained):
    folder = trained
    with safe_open(folder / "classifier.safetensors", "pt") as file:
        (tmp_path / "from_metadata.yaml").write_text(file.metadata()["config"])
    config = load_config(Config, tmp_path / "from_metadata.yaml")
    assert config == load_config(Config, folder / "config.yaml")
    network = build_experiment(config, config.data.load(), torch.device("cpu")).network
    network.load_state_dict(load_file(folder / "classifier.safetensors"))
    saved = load(folder / "checkpoints" / "step_00000004.pt")["network"]
    assert all(torch.equal(saved[name], tensor) for name, tensor in network.state_dict().items())


def test_run_is_a_feature_space(trained):
    folder = trained
    config = load_config(Config, folder / "config.yaml")
    experiment = build_experiment(config, config.data.load(), torch.device("cpu"))
    experiment.network.load_state_dict(load_file(folder / "classifier.safetensors"))
    images = experiment.sets.test.images[:5]
    extractor = build_extractor("classifier", MetricsConfig(classifier=str(folder)), ImageShape(1, 8, 10), CPU)
    features, logits = extractor(images)
    with torch.no_grad():
        expected = experiment.network.eval()(images.float() / 255)
    assert torch.allclose(logits, expected, rtol=1e-5, atol=1e-6)
    head = [module for module in experiment.network.modules() if isinstance(module, torch.nn.Linear)][-1]
    assert torch.allclose(head(features), logits)
    other = build_extractor(
        "classifier", MetricsConfig(classifier=str(folder / "classifier.safetensors")), ImageShape(1, 8, 10), CPU
    )
    assert other.fingerprint == extractor.fingerprint


@pytest.mark.usefixtures("without_audit")
def test_best_checkpoint_has_best_validation_accuracy(tmp_path, train):
    fast = ["eval.corruptions=[]", "eval.attack.iterations=1", "lipschitz.every=100"]
    folder = train(tmp_path / "run", "train.steps=8", "train.free.replays=0", *fast)
    tag = "metrics/accuracy_validation"
    scores = {line["step"]: line[tag] for line in read_metrics(folder) if tag in line}
    best = load(folder / "checkpoints" / "best.pt")
    assert best["step"] == max(scores, key=scores.get)
    without = train(tmp_path / "without", "validation=0", "train.steps=1", *fast)
    assert not (without / "checkpoints" / "best.pt").exists()


def test_evaluate_command(trained, capsys):
    folder = trained
    assert evaluate.main([str(folder), "--device", "cpu"]) == 0
    expected = read_metrics(folder)[-1]
    out = capsys.readouterr().out
    assert out.startswith(f"{folder}: step 4, 360 test images\n")
    assert f"2 steps of 2/255  {expected['metrics/accuracy_pgd16_2x1']:.1f}\n" in out
    assert "by class" not in out
    options = ["--device", "cpu", "--checkpoint", "best", "--by-class", "eval.attack.eps=0"]
    assert evaluate.main([str(folder), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    header = next(number for number, line in enumerate(lines) if line.startswith("test images, by class"))
    by_class = dict(line.split() for line in lines[header + 1 :])
    labels = Digits(resolution=8).load().held_out.labels
    mean = sum(float(by_class[str(k)]) * int((labels == k).sum()) for k in range(10)) / len(labels)
    accuracy = next(line for line in lines if line.startswith("test images  ")).split()[-1]
    assert mean == pytest.approx(float(accuracy), abs=0.1)
    clean, fgsm = (next(line for line in lines if line.startswith(name)) for name in ("test images", "FGSM"))
    assert clean.split()[-1] == fgsm.split()[-1]


INVALID = {
    "unknown key": (["train.stepz=3"], "train.stepz: unknown key .*did you mean 'train.steps'"),
    "wrong choice": (["classifier=resnet19"], "unknown classifier 'resnet19' .*did you mean 'resnet1"),
    "out of range": (["labels.noise=2"], "labels.noise: must be from 0 to 1, not 2"),
    "unknown corruption": (["eval.corruptions=[fog]"], "must be one of gaussian_noise, .*not the string 'fog'"),
    "penalty of a discriminator": (["regularizers.r1.weight=1"], "regularizers: r1 is for discriminators"),
    "normalization of a discriminator": (
        ["classifier.normalization=gradient"],
        "`gradient` needs a network with a single logit",
    ),
    "batch larger than data": (
        ["data.subset=0.01", "train.batch_size=16"],
        r"is larger than the training set \(\d+ images\)",
    ),
    "missing data": (["data=cifar10"], "data.root: cifar10 is missing or incomplete in 'data'"),
    "nothing to resume": (["--resume", "--out", "none"], r"contains no run \(config.yaml is missing\)"),
    "config of a GAN": (["--config", str(ROOT / "configs/digits/dcgan.yaml")], "yaml:2: .*this is a config of a GAN"),
}


@pytest.mark.parametrize(("arguments", "message"), INVALID.values(), ids=INVALID)
def test_invalid_input_is_one_line_and_exit_code_2(tmp_path, config, capsys, arguments, message):
    before = read_files(tmp_path)
    assert main(["--config", str(config), "--out", str(tmp_path / "run"), "--device", "cpu", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(f"error: .*{message}.*\n", err)
    assert read_files(tmp_path) == before


def test_existing_run_is_not_changed(trained, config, capsys):
    folder = trained
    before = read_files(folder)
    arguments = ["--config", str(config), "--device", "cpu", "--out", str(folder)]
    assert main(arguments) == 2
    assert main([*arguments, "--resume", "labels.noise=0.3"]) == 2
    assert evaluate.main([str(folder), "labels.noise=0.3"]) == 2
    err = capsys.readouterr().err
    assert "already contains a run; add --resume" in err
    assert "contains a run with another config (different: labels.noise)" in err
    assert "labels.noise=0.3: only keys of `eval` can be changed here" in err
    assert read_files(folder) == before


def test_help_lists_all_config_keys(capsys):
    assert main(["--help", "all"]) == 0
    out = capsys.readouterr().out
    for text in ("  train.free.replays  (default: 0)\n", "classifier 'resnet18':", "normalization 'conv_norm':"):
        assert text in out


def test_changed_images_are_refused(tmp_path, trained, capsys, monkeypatch):
    run = shutil.copytree(trained, tmp_path / "run")
    splits = Digits(resolution=8).load()
    splits.train.images[0, 0, 0, 0] ^= 1
    monkeypatch.setattr(Digits, "load", lambda self: splits)
    assert main(["--out", str(run), "--resume", "--device", "cpu", "train.steps=5"]) == 2
    assert evaluate.main([str(run), "--device", "cpu"]) == 2
    assert capsys.readouterr().err.count("the training images have changed since the run began") == 2


@pytest.mark.usefixtures("without_audit")
def test_table_without_operator_norm_and_with_large_learning_rate(tmp_path, train, capsys):
    fast = ["eval.corruptions=[]", "train.free.replays=0", "train.steps=2"]
    train(tmp_path / "layer", "classifier.activation_norm=layer", *fast)
    assert "(not affine)" in capsys.readouterr().out
    train(tmp_path / "large", "classifier.activation_norm=none", "optimizer.lr=1000", *fast)
    assert "classifier: largest input gradient" in capsys.readouterr().out


@pytest.mark.slow
def test_script_runs_in_any_folder(tmp_path, config, python):
    arguments = ["--config", "tiny.yaml", "--out", "run", "--device", "cpu", "train.steps=1"]
    good = python.run(ROOT / "train_classifier.py", *arguments, cwd=tmp_path)
    assert (good.returncode, good.stderr) == (0, "")
    assert "step 1/1" in good.stdout


@pytest.mark.slow
def test_comparison_of_classifiers_writes_report(tmp_path, config, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    out = tmp_path / "grid"
    arguments = [str(config), "--vary", "classifier.activation_norm=none,batch", "--seeds", "0", "--device", "cpu"]
    assert compare([*arguments, "--out", str(out), "--jobs", "2", "--threads", "1"]) == 0
    rows = read_table(out / "results.csv")
    assert [(row["cell"], row["status"]) for row in rows] == [("none-seed0", "finished"), ("batch-seed0", "finished")]
    for row in rows:
        last = read_metrics(out / "cells" / row["cell"])[-1]
        assert row["metrics/accuracy_test"] == pytest.approx(last["metrics/accuracy_test"], rel=1e-5)
    report = (out / "report.md").read_text()
    assert "4 updates (32 training images seen)" in report
    assert "## Lipschitz constant of the classifier" in report
    assert " of D" not in report
    assert "train_classifier.py" in (out / "logs" / "none-seed0.log").read_text()


@pytest.mark.slow
def test_default_config_has_97_percent_test_accuracy(tmp_path):
    assert main(["--out", str(tmp_path / "run"), "--device", "cpu", "eval.attack.iterations=1"]) == 0
    assert read_metrics(tmp_path / "run")[-1]["metrics/accuracy_test"] >= 97
