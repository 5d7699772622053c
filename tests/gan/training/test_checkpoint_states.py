"""States in checkpoints of other versions, which cannot be loaded: none of them is loaded in part."""

import copy
import shutil

import pytest
import torch

from gan.config import Config
from gan.options.loader import load_config
from gan.run.checkpoint import Checkpoints, load
from gan.runtime.errors import UserError
from gan.training.restore import restore_generator
from gan.training.step import training_step
from tests.gan.runs import load_newest, read_files, read_numbers, resume, same
from train_gan import main

pytestmark = pytest.mark.usefixtures("short_slope_search")


def drop(*keys):
    def change(state):
        for key in keys[:-1]:
            state = state[key]
        del state[next(iter(state)) if keys[-1] is None else keys[-1]]

    return change


def put(value, *keys):
    def change(state):
        for key in keys[:-1]:
            state = state[key]
        state[next(iter(state)) if keys[-1] is None else keys[-1]] = value

    return change


def spoil(name):
    def change(state):
        next(iter(state[name].values())).fill_(float("nan"))

    return change


CHANGES = {
    "step is missing": (drop("step"), "it contains another step"),
    "step is null": (put(None, "step"), "it contains another step"),
    "retries are text": (put("1", "retries"), "its retries is not a whole number: '1'"),
    "other images": (put((3, 99, None), "image"), "it is of images of another shape"),
    "labels of an unconditional run": (put([1, 2], "label_counts"), "its entry label_counts does not fit"),
    "images are a list": (put([1], "data"), "its entry data does not fit"),
    "D is missing": (drop("D"), "its entry D is missing"),
    "D is null": (put(None, "D"), "its entry D does not fit"),
    "weight is missing": (drop("D", None), "its entry D does not fit: Missing key"),
    "unknown weight": (put(torch.zeros(1), "G", "other.weight"), "its entry G does not fit: Unexpected key"),
    "weight of another shape": (put(torch.zeros(7), "G_ema", None), "its entry G_ema does not fit: size mismatch"),
    "weight is no tensor": (put("zeros", "G_ema", None), "its entry G_ema does not fit"),
    "optimizer is a list": (put([], "optimizer_D"), "its entry optimizer_D does not fit"),
    "too many parameters": (put({}, "optimizer_D", "state", 99), "not the state of .* parameters"),
    "renamed moment": (drop("optimizer_G", "state", 0, "exp_avg"), "its entry optimizer_G .* not the state of Adam"),
    "moment of another shape": (
        put(torch.zeros(7), "optimizer_G", "state", 0, "exp_avg"),
        "exp_avg of parameter 0 has",
    ),
    "no moments": (put({}, "optimizer_D", "state"), "its entry optimizer_D does not fit: no state of any parameter"),
    "negative count": (
        put(torch.tensor(-5.0), "optimizer_G", "state", 0, "step"),
        "step of parameter 0 has other values",
    ),
    "tracker is null": (put(None, "lipschitz"), "its entry lipschitz does not fit"),
    "vector is null": (put(None, "lipschitz", None), "its entry lipschitz does not fit"),
    "only unknown vectors": (put({"other": torch.zeros(1)}, "lipschitz"), "lipschitz does not fit: not the tensors"),
    "vector of another shape": (put(torch.zeros(7), "lipschitz", None), "has another shape or type"),
    "vector is not finite": (spoil("lipschitz"), "its entry lipschitz does not fit: .* is not finite"),
}


@pytest.fixture(scope="module")
def state(finished_run):
    """Return the last state of the run of the tiny config. Tests must copy it."""
    return load(finished_run / "checkpoints" / "step_00000004.pt")


@pytest.fixture
def experiment(build):
    return build("eval.metrics=[]")


def write(folder, state) -> None:
    """Write a state as the newest checkpoint of the run in a folder."""
    Checkpoints(folder, load_config(Config, folder / "config.yaml")).save_best(state)
    (folder / "checkpoints" / "best.pt").rename(folder / "checkpoints" / "step_00000004.pt")


def test_state_that_does_not_fit_is_refused_and_changes_nothing(experiment, state):
    before = copy.deepcopy(experiment.state_dict())
    assert experiment.check_state(state) is state
    for name, (change, reason) in CHANGES.items():
        if name.startswith("step"):
            continue
        changed = copy.deepcopy(state)
        change(changed)
        with pytest.raises(ValueError, match=reason):
            experiment.check_state(changed)
    assert same(experiment.state_dict(), before)
    experiment.load_state_dict(state)
    assert same(experiment.state_dict()["optimizer_D"]["state"], state["optimizer_D"]["state"])


def test_state_of_a_device_that_measures_other_layers_is_accepted_with_a_warning(experiment, state):
    first, *others = state["lipschitz"]
    for vectors, reason in (
        ({name: state["lipschitz"][name] for name in others}, rf"{first} \(missing\)"),
        (state["lipschitz"] | {"other": torch.zeros(1)}, r"other \(not used\)"),
        ({}, rf"{first}.* \(missing\)"),
    ):
        own = experiment.tracker.state_dict()[first].clone()
        changed = copy.deepcopy(state) | {"lipschitz": vectors}
        with pytest.warns(UserWarning, match=f"lipschitz in the checkpoint has other tensors: {reason}; ") as caught:
            experiment.check_state(changed)
        assert len(caught) == 1
        experiment.load_state_dict(changed)
        loaded = experiment.tracker.state_dict()
        assert all(torch.equal(loaded[name], vectors[name]) for name in loaded if name in vectors)
        assert first in vectors or torch.equal(loaded[first], own)


def test_states_of_regularizers_and_of_ada_are_restored(build):
    """Also when a run is rolled back, which restores a state into the same experiment."""
    options = ("train.augment=[ada]", "train.ada={p: 0.2, kimg: 0.1, every: 1}", "regularizers={lecam: {start: 1}}")
    experiment = build("eval.metrics=[]", *options)
    training_step(experiment, experiment.G, experiment.D)
    saved = copy.deepcopy(experiment.state_dict())
    assert saved["ada"]["p"] not in (0, 0.2)
    assert saved["regularizers.lecam"]["updates"] == 2
    training_step(experiment, experiment.G, experiment.D)
    expected = copy.deepcopy(experiment.state_dict())
    assert not any(same(saved[name], expected[name]) for name in ("ada", "regularizers.lecam"))
    experiment.load_state_dict(experiment.check_state(copy.deepcopy(saved)))
    assert same(experiment.state_dict()["ada"], saved["ada"])
    training_step(experiment, experiment.G, experiment.D)
    assert same(experiment.state_dict(), expected)
    for change, reason in (
        (drop("ada"), "its entry ada is missing"),
        (drop("regularizers.lecam", "fake"), "its entry regularizers.lecam does not fit: Missing key"),
    ):
        changed = copy.deepcopy(saved)
        change(changed)
        with pytest.raises(ValueError, match=reason):
            experiment.check_state(changed)


@pytest.fixture(scope="module")
def run_with_two_checkpoints(tmp_path_factory, tiny_run):
    folder = tmp_path_factory.mktemp("two") / "run"
    return tiny_run(folder, "checkpoint.keep=2", "checkpoint.every=1", "eval.metrics=[]")


@pytest.mark.parametrize("name", ["step is null", pytest.param("renamed moment", marks=pytest.mark.slow)])
def test_run_continues_from_the_checkpoint_before_one_of_another_version(tmp_path, run_with_two_checkpoints, name):
    folder = shutil.copytree(run_with_two_checkpoints, tmp_path / "run")
    change, reason = CHANGES[name]
    changed = load(folder / "checkpoints" / "step_00000004.pt")
    change(changed)
    write(folder, changed)
    with pytest.warns(UserWarning, match=rf"continuing from step_00000003.pt: .*step_00000004.pt: .*{reason}"):
        resume(folder)
    assert read_numbers(folder) == read_numbers(run_with_two_checkpoints)
    assert same(load_newest(folder), load_newest(run_with_two_checkpoints))


def test_without_another_checkpoint_the_reason_is_one_line(copied_run, state, capsys):
    changed = copy.deepcopy(state)
    CHANGES["weight is missing"][0](changed)
    write(copied_run, changed)
    assert main(["--out", str(copied_run), "--device", "cpu", "--resume"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "step_00000004.pt: its entry D does not fit: Missing key" in line


def test_log_is_not_begun_again_where_the_checkpoints_are_gone(copied_run, capsys):
    (copied_run / "checkpoints").rename(copied_run / "elsewhere")
    before = read_files(copied_run)
    assert main(["--out", str(copied_run), "--device", "cpu", "--resume", "checkpoint.every=3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "was trained to step 4, but" in line
    assert "has no checkpoint; restore that folder" in line
    assert read_files(copied_run) == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put(None, "image"), "its entry image does not fit"),
        (put((1, -16, None), "image"), "its entry image does not fit"),
        (put((1, 16, 10), "image"), "its entry G_ema does not fit"),
        *(CHANGES[name] for name in ("step is null", "weight of another shape", "labels of an unconditional run")),
    ],
)
def test_generator_of_another_version_is_refused(copied_run, state, change, reason):
    changed = copy.deepcopy(state)
    change(changed)
    write(copied_run, changed)
    with pytest.raises(UserError, match=reason):
        restore_generator(copied_run, torch.device("cpu"))
