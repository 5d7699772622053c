"""Logging continues after one warning when TensorBoard fails."""

import threading
import warnings
from pathlib import Path

import pytest
import torch
from tensorboard.summary.writer.record_writer import RecordWriter

from gan.run.logging import RunLogger, read_metrics
from gan.runtime.command import short_messages


def log(folder: Path, steps: int = 30) -> list[str]:
    """Log some steps and return the warnings."""
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with short_messages():
            logger = RunLogger(folder)
            for step in range(1, steps + 1):
                logger.scalars({"step": step}, {"loss/D": 1.0, "loss/G": 2.0})
            logger.image("samples", steps, torch.zeros(3, 8, 8, dtype=torch.uint8))
            logger.histograms(steps, {"h": torch.ones(3)})
            logger.close()
    assert len(read_metrics(folder)) == steps
    return [str(warning.message) for warning in shown]


@pytest.mark.parametrize("method", ["write", "flush", "close"])
@pytest.mark.parametrize("after", [0, 5])
def test_failing_writer_is_reported_once(method, after, tmp_path, monkeypatch, capfd):
    calls = []
    original = getattr(RecordWriter, method)

    def fail(self, *args):
        calls.append(1)
        if len(calls) > after or method == "close":
            raise OSError(5, "Input/output error")
        return original(self, *args)

    monkeypatch.setattr(RecordWriter, method, fail)
    hook, threads = threading.excepthook, threading.active_count()
    expected = ["cannot log to tensorboard (Input/output error); continuing without it"]
    assert log(tmp_path) == ([] if (method, after) == ("flush", 5) else expected)  # flush is called at most 5 times
    assert calls
    assert threading.excepthook is hook
    if (method, after) != ("flush", 0):  # then the constructor fails after it has started a thread
        assert threading.active_count() == threads
    assert capfd.readouterr().err == ""


def test_failing_constructor_is_reported_once(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", fail)
    hook = threading.excepthook
    assert log(tmp_path) == ["cannot log to tensorboard (Permission denied); continuing without it"]
    assert threading.excepthook is hook


def test_errors_in_other_threads_are_printed(monkeypatch):
    errors = []
    monkeypatch.setattr(threading, "excepthook", errors.append)
    with short_messages():
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
    assert [args.exc_type for args in errors] == [ZeroDivisionError]
