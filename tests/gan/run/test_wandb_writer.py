"""The writer for Weights & Biases, with a stand-in for the package and, where it is installed, offline with W&B."""

import os
import struct
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from gan.run.logging import RunLogger

CONFIG = "train: {steps: 4, precision: fp32}\nlog:\n  to: [wandb]\n"


def log(folder, start, steps, is_complete=True):
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(CONFIG)
    logger = RunLogger(folder, start, to=("wandb",))
    for step in steps:
        counters = {"step": step, "images": 16 * step}
        logger.scalars(counters, {"loss/D": step / 3})
        logger.histograms(step, {"spectra/layer": torch.arange(10.0)})
        if step % 2 == 0:
            logger.image("samples", step, torch.zeros(3, 8, 6, dtype=torch.uint8))
            logger.scalars(counters, {"metrics/fd": 10.0 * step})
    logger.close(is_complete)


class Run:
    """A run that keeps what it is called with, and drops steps before its own, as W&B does."""

    def __init__(self, step: int, url: str | None):
        self.step, self.rows, self.exit_code, self.url, self.dir = step, [], None, url, "wandb/offline-run-1/files"

    def log(self, values, step):
        if step >= self.step:
            self.step = step
            self.rows.append((step, values))

    def finish(self, exit_code):
        self.exit_code = exit_code


@pytest.fixture
def wandb(monkeypatch) -> SimpleNamespace:
    """Install a stand-in for W&B. Returns its runs, and whether it is online and has an API key."""
    state = SimpleNamespace(runs=[], options=[], mode="online", has_key=True)

    def init(**options):
        state.options.append(options)
        last = state.runs[-1].step + 1 if state.runs and state.mode == "online" else 0
        state.runs.append(Run(last, "https://wandb.example/run" if state.mode == "online" else None))
        return state.runs[-1]

    module = ModuleType("wandb")
    module.Settings = lambda **settings: settings
    module.setup = lambda settings: SimpleNamespace(settings=SimpleNamespace(mode=state.mode))
    module.login = lambda prompt: state.has_key and not prompt
    module.init = init
    module.Image = lambda image: ("image", image.shape)
    module.Histogram = lambda np_histogram: ("histogram", np_histogram[0].sum())
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_PROJECT", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return state


def test_run_has_the_config_and_all_values(tmp_path, wandb, capsys):
    log(tmp_path / "first", 0, range(1, 3))
    (options,), (run,) = wandb.options, wandb.runs
    assert options["config"] == {"train": {"steps": 4, "precision": "fp32"}, "log": {"to": ["wandb"]}}
    assert (options["name"], options["project"], options["dir"]) == ("first", "convnorm-gan", tmp_path / "first")
    assert (options["settings"]["silent"], options["settings"]["console"]) == (True, "off")
    assert run.rows == [
        (1, {"step": 1, "images": 16, "loss/D": 1 / 3}),
        (1, {"spectra/layer": ("histogram", 10)}),
        (2, {"step": 2, "images": 32, "loss/D": 2 / 3}),
        (2, {"spectra/layer": ("histogram", 10)}),
        (2, {"samples": ("image", (8, 6, 3))}),
        (2, {"metrics/fd": 20.0}),
    ]
    assert run.exit_code == 0
    assert capsys.readouterr().out == "W&B:          https://wandb.example/run\n"


def test_environment_names_the_project(tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    log(tmp_path / "run", 0, [1])
    assert wandb.options[0]["project"] == "mine"


def test_resumed_run_continues_the_same_run(tmp_path, wandb, capsys):
    log(tmp_path / "run", 0, range(1, 5), is_complete=False)
    assert capsys.readouterr().out == ""
    log(tmp_path / "run", 2, range(3, 6))
    assert wandb.options[0]["id"] == wandb.options[1]["id"]
    assert {options["resume"] for options in wandb.options} == {"allow"}
    assert [run.exit_code for run in wandb.runs] == [1, 0]
    assert {step for step, _ in wandb.runs[1].rows} == {5}


def test_evaluation_of_the_last_step_before_a_stop_is_not_dropped(tmp_path, wandb):
    folder = tmp_path / "run"
    log(folder, 0, [1], is_complete=False)
    logger = RunLogger(folder, 1, to=("wandb",))
    logger.scalars({"step": 1, "images": 16}, {"metrics/fd": 10.0})
    logger.close()
    assert wandb.runs[1].rows == [(2, {"metrics/fd": 10.0})]


def test_missing_key_is_reported_once(tmp_path, wandb):
    wandb.has_key = False
    with pytest.warns(UserWarning, match=r"^cannot log to wandb \(there is no API key; run wandb login, .*\)"):
        log(tmp_path / "run", 0, [1])
    assert not wandb.runs


def test_offline_run_needs_no_key(tmp_path, wandb, capsys):
    wandb.mode, wandb.has_key = "offline", False
    log(tmp_path / "run", 0, [1])
    assert capsys.readouterr().out == "W&B:          wandb sync wandb/offline-run-1\n"


def read_history(path) -> list[dict[str, str]]:
    """Return the rows of the history in a file of W&B.

    The format is the log of LevelDB: blocks of 32 KiB with chunks of a header (CRC, length, type) and data. The types
    are a whole record (1), its first (2), middle (3) or last (4) part.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, record, rows = path.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
        if kind in (1, 4):
            message = Record.FromString(record)
            rows += [message.history] if message.WhichOneof("record_type") == "history" else []
            record = b""
    return [{"/".join(item.nested_key) or item.key: item.value_json for item in row.item} for row in rows]


@pytest.mark.slow
def test_offline_run_of_wandb(tmp_path, python, monkeypatch):
    pytest.importorskip("wandb")
    home, run = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "WANDB_MODE": "offline"}
    environment = {name: value for name, value in environment.items() if name != "XDG_CACHE_HOME"}
    for arguments in ("0, range(1, 5), False", "2, range(3, 7)"):
        program = f"import runpy, pathlib; runpy.run_path({__file__!r})['log'](pathlib.Path({str(run)!r}), {arguments})"
        done = python.run("-c", program, env=environment, cwd=home)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    assert done.stdout.startswith(f"W&B:          wandb sync {run}/wandb/offline-run-")
    rows = [row for path in sorted(run.glob("wandb/offline-run-*/*.wandb")) for row in read_history(path)]
    assert [int(row["_step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [float(row["loss/D"]) for row in rows] == [step / 3 for step in range(1, 7)]
    assert [float(row["metrics/fd"]) for row in rows if "metrics/fd" in row] == [20.0, 40.0, 60.0]
    assert sum("samples/path" in row for row in rows) == 3
    assert all(sum(eval(row["spectra/layer/values"])) == 10 for row in rows)
    assert not list(home.iterdir())
