import dataclasses
import os
from pathlib import Path

import pytest
import yaml

from gan.config import Config, TrainConfig
from gan.evaluation.extractors import MetricsConfig
from gan.options.loader import load_config, to_plain
from gan.run import folder as run_folder
from gan.runtime.errors import UserError
from models.normalizations.conv_norm import ConvNorm


@pytest.fixture
def run(tmp_path) -> Path:
    """Return the folder of a run with the default config."""
    run_folder.write_config(tmp_path / "run", Config())
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("config", "name"),
    [("configs/digits/dcgan.yaml", "digits-dcgan"), ("/a.yaml", "a"), ("/x/y/../a.b.yaml", "x-a.b")],
)
def test_run_name(config, name):
    assert run_folder.get_run_name(Path(config)) == name


def test_run_name_of_config_in_working_directory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run_folder.get_run_name(Path("a.yaml")) == "here-a"


def test_free_folder_has_the_next_number(tmp_path):
    assert run_folder.find_free_folder("x", tmp_path) == tmp_path / "x"
    (tmp_path / "x").mkdir()
    assert run_folder.find_free_folder("x", tmp_path) == tmp_path / "x-2"
    (tmp_path / "x-2").mkdir()
    assert run_folder.find_free_folder("x", tmp_path) == tmp_path / "x-3"


def test_newest_folder_has_the_latest_config(tmp_path):
    for age, name in enumerate(["x-10-copy", "x-2old", "x-10", "x-2", "x", "x-y", "xx"]):
        run_folder.write_config(tmp_path / name, Config())
        os.utime(tmp_path / name / "config.yaml", (1000 - age, 1000 - age))
    assert run_folder.find_newest_folder("x", tmp_path) == tmp_path / "x-10"


def test_newest_folder_without_runs_is_a_user_error(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match="there is no run x in"):
        run_folder.find_newest_folder("x", tmp_path)


def test_new_folder_that_stays_empty_is_removed(tmp_path):
    (tmp_path / "existing").mkdir()
    for name in ("new", "existing"):
        with pytest.raises(UserError), run_folder.hold(tmp_path / name, is_new=True):
            raise UserError("no network for these images")
    assert [path.name for path in tmp_path.iterdir()] == ["existing"]
    with run_folder.hold(tmp_path / "new", is_new=True):
        (tmp_path / "new" / "file").touch()
    assert (tmp_path / "new" / "file").exists()


def test_new_and_empty_folders_are_free(tmp_path):
    run_folder.check_free(tmp_path)
    run_folder.check_free(tmp_path / "new" / "deep")
    assert list(tmp_path.iterdir()) == []


def test_used_folders_and_files_are_not_free(tmp_path, run):
    with pytest.raises(UserError, match="already contains a run; add --resume"):
        run_folder.check_free(run)
    for path in (tmp_path, run / "config.yaml"):
        with pytest.raises(UserError, match="exists and is not an empty folder"):
            run_folder.check_free(path)


def test_unreadable_folder_is_a_user_error(tmp_path, monkeypatch):
    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(UserError, match=r"cannot read the run folder .*: Permission denied"):
        run_folder.check_free(tmp_path)


@pytest.mark.parametrize("check", [run_folder.check_free, run_folder.config_path])
def test_too_long_folder_name_is_a_user_error(tmp_path, check):
    with pytest.raises(UserError, match="File name too long"):
        check(tmp_path / ("x" * 300))


def test_written_config_can_be_loaded(run):
    assert load_config(Config, run_folder.config_path(run)) == Config()


@pytest.mark.parametrize("stride", ["paper", "strided"])
def test_written_config_depends_on_no_default(run, stride):
    """A run that is resumed after a default has changed continues as what it was."""
    choice = f"discriminator.normalization={{name: conv_norm, stride: {stride}}}"
    config = load_config(Config, None, [choice, "regularizers={r1: {}}"])
    run_folder.write_config(run, config)
    written = yaml.safe_load(run_folder.config_path(run).read_text())
    assert written["discriminator"]["normalization"].keys() == {"name"} | {f.name for f in dataclasses.fields(ConvNorm)}
    assert not run_folder.differing_keys(written, to_plain(config))
    assert load_config(Config, run_folder.config_path(run)).discriminator.normalization == ConvNorm(stride=stride)


def test_folder_without_config_contains_no_run(tmp_path):
    with pytest.raises(UserError, match=r"contains no run \(config.yaml is missing\)"):
        run_folder.config_path(tmp_path)


def test_resumed_run_may_change_steps_and_reports(run):
    changes = ["train.steps=9", "log.every=1", "eval.metrics=[modes7]", "lipschitz.every=2", "checkpoint.keep=5"]
    changes += ["data.device_budget_gb=0", "data.workers=5", "data.root=elsewhere"]
    run_folder.check_same_experiment(run, load_config(Config, None, changes))


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        ("train.batch_size=65", "train.batch_size"),
        ("seed=1", "seed"),
        (
            "discriminator.normalization=conv_norm",
            "discriminator.normalization.name, discriminator.normalization.affine",
        ),
        ("regularizers.r1.weight=1", "regularizers.r1"),
        ("optimizer.generator.betas=[0, 0.9]", "optimizer.generator.betas"),
    ],
)
def test_resumed_run_may_not_change_experiment(run, change, keys):
    with pytest.raises(UserError, match=f"different: {keys}"):
        run_folder.check_same_experiment(run, load_config(Config, None, [change]))


def test_resumed_run_may_not_change_the_fingerprint_of_its_classifier():
    names = [None, "a@0123456789abcdef", "b@0123456789abcdef", "a@fedcba9876543210", "gone", "x@y/gone"]
    none, a, moved, other, *unread = (Config(metrics=MetricsConfig(classifier=name)) for name in names)
    assert run_folder.changed_keys(a, other) == ["metrics.classifier"]
    for config in (none, moved, *unread):  # a file that cannot be read is reported where it is used
        assert run_folder.changed_keys(a, config) == run_folder.changed_keys(config, a) == []


def test_comments_of_a_config_are_kept(tmp_path):
    for notes in (["a", "b"], ["b", "c"], []):
        run_folder.write_config(tmp_path, Config(), notes)
    lines = (tmp_path / "config.yaml").read_text().splitlines()
    assert [line for line in lines if line.startswith("#")] == lines[:3] == ["# a", "# b", "# c"]


def test_unwritable_folder_is_a_user_error(run):
    with pytest.raises(UserError, match=r"cannot write to --out .*: Not a directory"):
        run_folder.write_config(run / "config.yaml" / "below", Config(train=TrainConfig(steps=9)))
    assert load_config(Config, run / "config.yaml") == Config()
