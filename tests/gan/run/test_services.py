"""Writers for programs that keep what they have received, with a stand-in for the program."""

import json
import sys
import threading
import time
import warnings

import pytest
import torch

from gan.config import Config, TrainConfig
from gan.run.lock import locked
from gan.run.logging import RunLogger, read_metrics
from gan.run.options import LogConfig
from gan.run.recorder import open_recorder
from gan.run.writers import WRITERS
from gan.run.writers.base import find_missing_packages
from gan.run.writers.service import Service


class Program:
    """What the stand-in has received in all sessions. An event that is not set makes it wait."""

    def __init__(self):
        self.sessions, self.numbers, self.images, self.brightness, self.histograms, self.ends = ([] for _ in range(6))
        self.is_ready = threading.Event()
        self.is_ready.set()
        self.error: Exception | None = None

    def wait(self) -> None:
        self.is_ready.wait(10)
        if self.error is not None:
            raise self.error

    @property
    def series(self) -> dict[str, list[tuple[int, float]]]:
        found = {}
        for step, numbers in self.numbers:
            for tag, value in numbers.items():
                found.setdefault(tag, []).append((step, value))
        return found


@pytest.fixture
def program(monkeypatch) -> Program:
    """Register a writer `stand_in`, and return its program."""
    program = Program()

    class StandIn(Service):
        package = "stand_in"

        def open(self):
            program.wait()
            program.sessions.append(self.id)

        def send_numbers(self, step, numbers):
            program.wait()
            program.numbers.append((step, dict(numbers)))

        def send_image(self, tag, step, image):
            program.images.append((tag, step, image.shape))
            program.brightness.append(image.max())

        def send_histograms(self, step, histograms):
            program.histograms.append((step, {tag: counts.sum() for tag, (counts, _) in histograms.items()}))

        def finish(self, is_complete):
            program.ends.append(is_complete)
            return "stand-in: here"

    monkeypatch.setitem(WRITERS._classes, "stand_in", StandIn)
    return program


def start(folder, step=0) -> RunLogger:
    return RunLogger(folder, step, to=("stand_in",))


def log(logger, steps, evaluates=True):
    for step in steps:
        counters = {"step": step, "images": 16 * step}
        logger.scalars(counters, {"loss/D": step / 3})
        logger.histograms(step, {"spectra": torch.tensor([1.0, 2.0, float("nan")])})
        if step % 2 == 0 and evaluates:
            logger.image("samples", step, torch.zeros(3, 8, 6, dtype=torch.uint8))
            logger.scalars(counters, {"metrics/fd": 10.0 * step})


def log_and_close(logger, steps):
    log(logger, steps)
    logger.close()


def get_warnings(call) -> list[str]:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in shown]


def test_program_receives_everything_once_and_in_order(tmp_path, program, capsys):
    logger = start(tmp_path)
    log(logger, range(1, 5))
    logger.close()
    assert program.series == {
        "step": [(step, step) for step in range(1, 5)],
        "images": [(step, 16 * step) for step in range(1, 5)],
        "loss/D": [(step, step / 3) for step in range(1, 5)],
        "metrics/fd": [(2, 20.0), (4, 40.0)],
    }
    assert program.images == [("samples", 2, (8, 6, 3)), ("samples", 4, (8, 6, 3))]
    assert program.histograms == [(step, {"spectra": 2}) for step in range(1, 5)]
    assert program.ends == [True]
    assert capsys.readouterr().out == "stand-in: here\n"


def test_writer_that_is_named_twice_begins_one_run(tmp_path, program):
    logger = RunLogger(tmp_path, to=("stand_in", "stand_in"))
    log(logger, range(1, 3))
    logger.close()
    assert len(program.sessions) == 1
    assert program.ends == [True]


@pytest.mark.parametrize("again", [4, 2, 0])
def test_resumed_run_continues_the_same_run_and_repeats_no_step(tmp_path, program, again, capsys):
    logger = start(tmp_path)
    log(logger, range(1, 5))
    logger.close(is_complete=False)
    for last in (5, 6):  # the second time, the log was already shortened once
        logger = start(tmp_path, again)
        log(logger, range(again + 1, last + 1))
        logger.close()
    assert len(set(program.sessions)) == 1
    assert {tag: [step for step, _ in values] for tag, values in program.series.items()} == {
        "step": [1, 2, 3, 4, 5, 6],
        "images": [1, 2, 3, 4, 5, 6],
        "loss/D": [1, 2, 3, 4, 5, 6],
        "metrics/fd": [2, 4, 6],
    }
    assert [step for _, step, _ in program.images] == [2, 4, 6]
    assert [step for step, _ in program.histograms] == [1, 2, 3, 4, 5, 6]
    assert program.ends == [False, True, True]
    assert capsys.readouterr().out.count("stand-in") == 2


def test_evaluation_that_was_interrupted_is_sent(tmp_path, program):
    for resumed_at in (4, 3):
        folder = tmp_path / str(resumed_at)
        logger = start(folder)
        log(logger, range(1, 4))
        log(logger, [4], evaluates=False)
        logger.close(is_complete=False)
        program.numbers.clear()
        program.images.clear()
        logger = start(folder, resumed_at)
        log(logger, [4])
        logger.close()
        assert program.numbers == [(4, {"metrics/fd": 40.0})]
        assert program.images == [("samples", 4, (8, 6, 3))]


def test_program_that_is_added_receives_the_earlier_numbers(tmp_path, program):
    earlier = RunLogger(tmp_path, to=())
    log(earlier, range(1, 6))
    earlier.close()
    logger = start(tmp_path, 4)
    log(logger, [5])
    logger.close()
    assert [step for step, _ in program.series["loss/D"]] == [1, 2, 3, 4, 5]
    assert program.series["metrics/fd"] == [(2, 20.0), (4, 40.0)]


def test_program_that_was_out_of_reach_receives_everything_later(tmp_path, program):
    program.error = OSError(113, "No route to host")
    shown = get_warnings(lambda: log_and_close(start(tmp_path), range(1, 5)))
    assert shown == ["cannot log to stand_in (No route to host); continuing without it"]
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4]
    assert not program.sessions
    program.error = None
    logger = start(tmp_path, 3)
    log(logger, [4])
    logger.close()
    assert [step for step, _ in program.series["loss/D"]] == [1, 2, 3, 4]


def test_program_is_told_whether_the_run_has_reached_its_last_step(tmp_path, program):
    config = Config(train=TrainConfig(steps=10), log=LogConfig(to=("stand_in",)))
    with open_recorder(tmp_path, config, 0, "D", {}) as recorder:
        recorder.rewind(0)
    with pytest.raises(KeyboardInterrupt), open_recorder(tmp_path, config, 0, "D", {}):
        raise KeyboardInterrupt
    assert program.ends == [False, True, False]


def test_training_does_not_wait_for_a_program(tmp_path, program, monkeypatch):
    monkeypatch.setattr("gan.run.writers.service.TIMEOUT_S", 0.05)
    program.is_ready.clear()
    begin = time.monotonic()
    logger = start(tmp_path)
    log(logger, range(1, 5))
    with pytest.warns(UserWarning, match=r"^cannot log to stand_in \(it has not received everything after 0 s\)"):
        logger.close()
    assert time.monotonic() - begin < 5
    assert not program.sessions
    program.is_ready.set()


def test_calls_that_wait_are_limited(tmp_path, program, monkeypatch):
    monkeypatch.setattr("gan.run.writers.service.MAX_WAITING", 10)
    program.is_ready.clear()
    shown = get_warnings(lambda: log_and_close(start(tmp_path), range(1, 20)))
    assert shown == ["cannot log to stand_in (it has not received the last 10 calls); continuing without it"]
    assert len(read_metrics(tmp_path)) == 19
    program.is_ready.set()


def test_tensors_that_change_later_are_sent_as_they_were(tmp_path, program):
    program.is_ready.clear()
    logger = start(tmp_path)
    values, image = torch.ones(3), torch.zeros(3, 2, 2, dtype=torch.uint8)
    logger.histograms(1, {"h": values})
    logger.image("samples", 1, image)
    values.fill_(float("nan"))
    image.fill_(255)
    program.is_ready.set()
    logger.close()
    assert program.histograms == [(1, {"h": 3})]
    assert program.brightness == [0]


def test_damaged_state_is_kept_and_begins_another_run(tmp_path, program):
    logger = start(tmp_path)
    log(logger, [1])
    logger.close()
    (tmp_path / "stand_in.json").write_text('{"id": "../../x", "sent": {}}')
    with pytest.warns(UserWarning, match=r"stand_in\.json is damaged .*, kept as "):
        start(tmp_path, 1).close()
    assert len(set(program.sessions)) == 2
    assert json.loads((tmp_path / "stand_in.json").read_text())["id"] == program.sessions[1]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_missing_package_is_reported_at_the_start(tmp_path, tiny_config, name, monkeypatch, capsys):
    from train_gan import main

    monkeypatch.setitem(sys.modules, name, None)
    assert main(["--config", str(tiny_config), "--out", str(tmp_path / "run"), f"log.to=[csv, {name}]"]) == 2
    assert capsys.readouterr().err == f"error: log.to: {name} is not installed: pip install -e '.[{name}]'\n"
    assert not (tmp_path / "run").exists()


def test_folder_with_the_name_of_a_package_is_no_package(tmp_path, monkeypatch):
    """W&B makes a folder `wandb` in the working directory of other programs."""
    (tmp_path / "convnorm_no_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(WRITERS.get("wandb"), "package", "convnorm_no_package")
    assert find_missing_packages(["tensorboard", "csv", "wandb"]) == [
        "log.to: convnorm_no_package is not installed: pip install -e '.[convnorm_no_package]'"
    ]


def test_nothing_is_written_to_a_folder_that_was_moved_before_the_program_answers(tmp_path, program):
    program.is_ready.clear()
    with locked(tmp_path / "run"):
        logger = start(tmp_path / "run")
        (tmp_path / "run").rename(tmp_path / "moved")
        program.is_ready.set()
        with pytest.warns(UserWarning, match=r"^cannot log to stand_in"):
            logger.close()
        assert not (tmp_path / "run").exists()
        (tmp_path / "moved").rename(tmp_path / "run")
