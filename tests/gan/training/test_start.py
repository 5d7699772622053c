"""The checks before a run starts, and the metrics that stand in when weights are missing."""

from collections import namedtuple
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from classification.config import Config as ClassifierConfig
from classification.start import check_start as check_classifier_start
from gan.config import Config
from gan.evaluation.extractors import EXTRACTORS
from gan.evaluation.stand_ins import replace_metrics
from gan.evaluation.trained_classifiers import load_classifier
from gan.options.loader import load_config
from gan.run.start import require_all
from gan.runtime.errors import UserError
from gan.training.start import check_start, choose_metrics, estimate_space

CIFAR10 = Path(__file__).parents[3] / "configs" / "cifar10" / "dcgan.yaml"
STAND_INS = ("fd_classifier10k_train", "is_classifier10k")
Usage = namedtuple("Usage", ("total", "used", "free"))


@pytest.fixture(autouse=True, scope="module")
def classifiers_stay_in_memory():
    """Build a shipped classifier once, and not for every check of a start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gan.evaluation.extractors.classifier.load_classifier", cache(load_classifier))
        yield


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch) -> Path:
    """Use an empty folder as torch's hub, and work in an empty folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub" / "hub" / "checkpoints"


def load(*overrides: str, path: Path = CIFAR10) -> Config:
    return load_config(Config, path, overrides)


def add_weights(hub: Path) -> None:
    hub.mkdir(parents=True)
    (hub / "weights-inception-2015-12-05-6726825d.pth").touch()


def test_classifier_of_the_data_stands_in_for_inception(hub):
    start = check_start(load("data.download=true"), Path("run"), "cpu")
    assert start.missing == []
    assert start.config.eval.metrics == STAND_INS
    assert start.config.metrics.classifier.startswith("cifar10_jpeg@")
    (note,) = start.notes
    assert f"put weights-inception-2015-12-05-6726825d.pth into {hub}" in note
    assert "Instead of fid10k_train and is10k, this run has fd_classifier10k_train and is_classifier10k" in note
    add_weights(hub)
    assert check_start(load(), Path("run"), "cpu").config == load()


@pytest.mark.parametrize(
    ("metrics", "without", "expected"),
    [
        (["fid5k_test10k", "kid10k_train"], ["inception"], ["fd_classifier5k_test10k", "kid_classifier10k_train"]),
        (["fdinf50k_train", "recall9k_test"], ["inception"], ["fdinf_classifier50k_train", "recall_classifier9k_test"]),
        (["intrafd50k_train"], ["inception"], ["intrafd_classifier50k_train"]),
        (["fid10k_train", "fd_classifier10k_train"], ["inception"], ["fd_classifier10k_train"]),
        (["fid50k_file", "is10k"], ["inception"], ["is_classifier10k"]),
        (["fd_clip-rn50-10k_train", "fid10k_train"], ["clip-rn50"], ["fid10k_train"]),
    ],
)  # fmt: skip
def test_each_metric_has_its_stand_in(metrics, without, expected):
    config = load()
    names, options = replace_metrics(metrics, config.metrics, config.data, without)
    assert names == expected
    assert (options.classifier is None) == (without == ["clip-rn50"] or "fd_classifier10k_train" in metrics)


def test_named_classifier_stands_in_before_the_shipped_one():
    shipped = check_start(load("metrics.classifier=cifar10_jpeg"), Path("run"), "cpu")
    assert shipped.config.eval.metrics == STAND_INS
    lines = check_start(load("data.download=true", "metrics.classifier=my/run"), Path("run"), "cpu").missing
    assert [line[:46] for line in lines] == ["metrics.classifier: cannot read the weights in"]


@pytest.mark.parametrize(("name", "expected"), [("digits", "32 x 32 pixels, not 16 x 16"), ("cifar100", None)])
def test_stand_in_of_other_images_is_missing_at_the_start(name, expected):
    config = load(f"data={{name: {name}}}", "metrics.classifier=cifar10_jpeg")
    lines = [line for line in check_start(config, Path("run"), "cpu").missing if "cifar10_jpeg@" in line]
    assert len(lines) == (expected is not None)
    assert all(line.startswith("metrics.classifier") and f"classifies images of {expected}" in line for line in lines)


def test_metrics_without_stand_in_are_left_out():
    data = "data={name: folder, root: ., resolution: 32}"
    start = check_start(load(data), Path("run"), "cpu")
    assert start.config.eval.metrics == ()
    (note,) = start.notes
    assert "This run has no fid10k_train and is10k; a new run with metrics.classifier=RUN" in note
    assert note.endswith("Without metrics, there is no best.pt")


@pytest.mark.parametrize("metrics", ["fid10k_train, fd_classifier10k_train", "fid10k_file, fd_classifier10k_train"])
def test_classifier_is_not_asked_for_where_it_would_change_nothing(metrics, tmp_path):
    statistics = tmp_path / "statistics.npz"
    np.savez(statistics, mu=np.zeros(2048), sigma=np.eye(2048))
    options = ("metrics.classifier=cifar10_jpeg", f"metrics.statistics={statistics}", f"eval.metrics=[{metrics}]")
    start = check_start(load("data.download=true", *options), Path("run"), "cpu")
    assert start.config.eval.metrics == ("fd_classifier10k_train",)
    (note,) = start.notes
    assert note.endswith(f"This run has no {metrics.split(',')[0]}")


def test_run_that_does_not_start_has_no_warnings(recwarn):
    start = check_start(load("metrics.download=false"), Path("run"), "cpu")
    assert start.notes
    with pytest.raises(UserError, match=r"^data\.root"):
        require_all([start])
    assert not recwarn.list
    with pytest.warns(UserWarning, match="Instead of fid10k_train"):
        require_all([start._replace(missing=[], spaces=[])])


def test_everything_missing_is_reported_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage(10**12, 10**12, 0))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "file").touch()
    config = load("metrics.optional=false", "eval.metrics=[fid10k_train, fd_clip-rn50-10k_train]")
    with pytest.raises(UserError) as error:
        require_all([check_start(config, tmp_path / "file" / "run", "cuda")])
    beginnings = [
        *("--device cuda", "data.root: cifar10", "cannot write to --out"),
        *("the weights of Inception", "the weights of clip", "the disk of"),
    ]
    assert len(error.value.lines) == len(beginnings)
    assert all(map(str.startswith, error.value.lines, beginnings))


def test_files_that_the_config_names_are_never_optional():
    options = ("metrics.inception_weights=gone.pth", "metrics.classifier=gone", "metrics.statistics=gone.npz")
    metrics = "eval.metrics=[fid10k_train, fd_classifier10k_train]"
    lines = check_start(load(*options, metrics), Path("run"), "cpu").missing
    assert [line.split(":")[0] for line in lines[:2]] == ["data.root", "metrics.inception_weights"]
    assert "cannot read the weights in gone" in lines[2]
    (line,) = check_start(load(*options, "eval.metrics=[fid10k_file]", "data=digits"), Path("run"), "cpu").missing
    assert line.startswith("metrics.statistics: cannot read gone.npz")


def test_nothing_is_downloaded_for_a_run_that_cannot_start(monkeypatch):
    downloads = []
    monkeypatch.setattr(EXTRACTORS.get("inception"), "download", lambda *arguments: downloads.append(1) or [])
    config = load("metrics.download=true")
    assert len(check_start(config, Path("run"), "cpu").missing) == 1
    assert not downloads
    check_start(replace(config, data=replace(config.data, download=True)), Path("run"), "cpu")
    assert downloads


def test_resumed_run_keeps_its_metrics(hub):
    config = load("data.download=true")
    began = check_start(config, Path("run"), "cpu").config
    assert check_start(config, Path("run"), "cpu", began).config == began
    add_weights(hub)
    assert check_start(began, Path("run"), "cpu", began)[:3] == (began, [], [])
    again = check_start(config, Path("run"), "cpu", began)
    assert (again.config, len(again.notes)) == (began, 1)
    required = load("data.download=true", "metrics.optional=false")
    assert check_start(required, Path("run"), "cpu", began).config == required


def test_resumed_run_needs_its_metrics():
    config = load("data.download=true")
    (line,) = check_start(config, Path("run"), "cpu", config).missing
    assert "the run began with them" in line


def test_resumed_run_does_not_begin_to_have_metrics():
    data = "data={name: folder, root: ., resolution: 32}"
    began = check_start(load(data), Path("run"), "cpu").config
    assert began.eval.metrics == ()
    with_classifier = load(data, "metrics.classifier=cifar10_jpeg")
    with pytest.raises(UserError) as error:
        choose_metrics(with_classifier, began)
    (line,) = error.value.lines
    assert line.startswith("the weights of Inception are missing")
    assert "(the run began with no metrics; metrics.optional=false eval.metrics=[...] changes them)" in line
    with pytest.raises(UserError, match="the run began with fd_classifier9k_train; metrics"):
        choose_metrics(with_classifier, replace(began, eval=replace(began.eval, metrics=("fd_classifier9k_train",))))
    change = ("metrics.optional=false", "eval.metrics=[fd_classifier10k_train]", "metrics.classifier=cifar10_jpeg")
    assert choose_metrics(load(data, *change), began)[0].eval.metrics == ("fd_classifier10k_train",)


def test_space_of_networks_that_cannot_be_built_is_unknown(monkeypatch):
    def build(*arguments) -> None:
        raise RuntimeError("no kernel for the meta device")

    monkeypatch.setattr(type(load().generator), "build", build)
    assert estimate_space(load(), Path("run")) == []


def test_space_for_checkpoints_and_downloads(monkeypatch):
    free = 1.06 * 10**9
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage(10**12, 0, free))

    def require(*overrides: str) -> None:
        start = check_start(load("data.download=true", *overrides), Path("run"), "cpu")
        require_all([start._replace(notes=[])])

    # 4 x 11,429,632 numbers of G, its average and its moments, and 3 x 4,309,441 of D: 235 MB in each checkpoint.
    require("train.steps=1")  # 3 checkpoints and 0.36 GB for the download
    free = 1.04 * 10**9
    with pytest.raises(
        UserError, match=r"1\.04 GB free, but 1\.06 GB are needed for the download of cifar10 and checkpoints"
    ):
        require("train.steps=1")
    with pytest.raises(UserError, match=r"but 1\.30 GB are needed"):
        require()
    with pytest.raises(UserError, match=r"but 3\.18 GB are needed"):
        require("checkpoint.keep=10")


def test_classifier_is_checked_too(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage(10**12, 0, 0))
    config = load_config(ClassifierConfig, CIFAR10.parents[1] / "classification" / "cifar10_resnet18.yaml")
    with pytest.raises(UserError) as error:
        require_all([check_classifier_start(config, Path("run"), "cpu")])
    assert [line.split(" ")[0] for line in error.value.lines] == ["data.root:", "the"]
