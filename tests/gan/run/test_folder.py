import os
from pathlib import Path

import pytest

from gan.config import Config, TrainConfig
from gan.options.loader import load_config
from gan.run import folder as run_folder
from gan.runtime.errors import UserError


@pytest.fixture
def run(tmp_path) -> Path:
    """A folder that holds a run of the default config."""
    run_folder.write_config(tmp_path / "run", Config())
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("config", "name"),
    [("configs/digits/dcgan.yaml", "digits-dcgan"), ("/a.yaml", "a"), ("/x/y/../a.b.yaml", "x-a.b")],
)
def test_a_run_is_called_after_its_config(config, name):
    assert run_folder.get_run_name(Path(config)) == name


def test_a_config_in_the_working_directory_is_named_after_it_too(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run_folder.get_run_name(Path("a.yaml")) == "here-a"


def test_a_free_folder_is_numbered_after_those_that_exist(tmp_path):
    assert run_folder.find_free_folder("x", tmp_path) == tmp_path / "x"
    (tmp_path / "x").mkdir()
    assert run_folder.find_free_folder("x", tmp_path) == tmp_path / "x-2"
    (tmp_path / "x-2").mkdir()
    assert run_folder.find_free_folder("x", tmp_path) == tmp_path / "x-3"


def test_the_newest_folder_is_the_one_written_last_of_that_name(tmp_path):
    for age, name in enumerate(["x-10", "x-2", "x", "x-y", "xx"]):
        run_folder.write_config(tmp_path / name, Config())
        os.utime(tmp_path / name / "config.yaml", (1000 - age, 1000 - age))
    assert run_folder.find_newest_folder("x", tmp_path) == tmp_path / "x-10"


def test_without_a_run_there_is_no_newest(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match="there is no run x in"):
        run_folder.find_newest_folder("x", tmp_path)


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


def test_a_folder_that_cannot_be_looked_into_is_a_users_error(tmp_path, monkeypatch):
    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(UserError, match=r"cannot read --out .*: Permission denied"):
        run_folder.check_free(tmp_path)


@pytest.mark.parametrize("look", [run_folder.check_free, run_folder.config_path])
def test_a_name_that_is_too_long_is_a_users_error(tmp_path, look):
    with pytest.raises(UserError, match="File name too long"):
        look(tmp_path / ("x" * 300))


def test_the_written_config_reads_back(run):
    assert load_config(Config, run_folder.config_path(run)) == Config()


def test_a_folder_without_a_config_holds_no_run(tmp_path):
    with pytest.raises(UserError, match=r"contains no run \(config.yaml is missing\)"):
        run_folder.config_path(tmp_path)


def test_a_run_may_go_on_longer_and_report_otherwise(run):
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
def test_a_run_may_not_become_another_one(run, change, keys):
    with pytest.raises(UserError, match=f"different: {keys}"):
        run_folder.check_same_experiment(run, load_config(Config, None, [change]))


def test_a_folder_that_cannot_be_written_is_a_users_error(run):
    with pytest.raises(UserError, match=r"cannot write to --out .*: Not a directory"):
        run_folder.write_config(run / "config.yaml" / "below", Config(train=TrainConfig(steps=9)))
    assert load_config(Config, run / "config.yaml") == Config()
