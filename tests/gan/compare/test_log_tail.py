import json

from gan.compare import log_tail
from gan.compare.log_tail import LogTail
from gan.run.logging import METRICS, RunLogger, parse_line
from gan.runtime.files import append


def write(run, *lines: dict, end: str = "\n") -> None:
    with (run / METRICS).open("a") as file:
        file.write("\n".join(map(json.dumps, lines)) + end)


def test_each_line_is_read_once_when_it_is_complete(tmp_path, monkeypatch):
    parsed = []
    monkeypatch.setattr(log_tail, "parse_line", lambda text: parsed.append(text) or parse_line(text))
    tail = LogTail(tmp_path)
    assert tail.read() == (0, "")
    write(tmp_path, {"step": 1, "loss/D": 1.0}, {"step": 2, "metrics/kid_validation": 9.0, "metrics/kid": 3.0})
    assert tail.read() == (2, "kid 3")
    write(tmp_path, {"step": 3, "metrics/kid": 2.5, "metrics/fid": 7.0}, end="")
    assert tail.read() == (2, "kid 3")
    write(tmp_path)
    assert tail.read() == tail.read() == (3, "kid 2.5")
    write(tmp_path, {"step": 4, "metrics/kid": None})
    append(tmp_path / METRICS, b"\xff\n5\n")
    assert tail.read() == (4, "")
    assert len(parsed) == 4  # the lines with metrics and the last one of each time


def test_log_of_a_resumed_run_is_read_again(tmp_path):
    tail = LogTail(tmp_path)
    write(tmp_path, *({"step": step, "metrics/kid": step / 2} for step in range(1, 9)))
    assert tail.read() == (8, "kid 4")
    logger = RunLogger(tmp_path, start=4, to=())
    assert tail.read() == (4, "kid 2")
    logger.scalars({"step": 5}, {"metrics/kid": 1.0})
    assert tail.read() == (5, "kid 1")


def test_log_that_cannot_be_read_has_no_progress(tmp_path):
    (tmp_path / METRICS).mkdir()
    assert LogTail(tmp_path).read() == (0, "")
