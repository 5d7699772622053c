import io
import re
import sys

import pytest

from gan.run import progress
from gan.run.progress import Progress, format_duration


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Return a function that replaces the output by a terminal with a number of columns, and returns it."""

    def use(columns):
        screen = Terminal()
        monkeypatch.setattr(sys, "stdout", screen)
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setenv("COLUMNS", str(columns))
        return screen

    return use


def read_lines(screen) -> list[str]:
    """Return the lines as the terminal shows them: a carriage return starts the line again."""
    return [line.rpartition("\r")[2] if not line.endswith("\r") else "" for line in screen.getvalue().split("\n")]


def show(columns, terminal) -> tuple[str, list[str]]:
    screen = terminal(columns)
    shown = Progress(0, 4000)
    shown.show(500, {"D": 1.23456, "G": 0.7, "images_per_s": 1234.5}, {})
    shown.show(1000, {"fd_classifier10k_test": 9.21}, {"fd_classifier10k_test": 9.21, "is_classifier10k": 3.4})
    shown._bar.update(1000)
    shown._bar.refresh()
    *lines, bar = read_lines(screen)
    shown.close()
    return bar, lines


@pytest.mark.parametrize(
    ("columns", "has_bar", "labels"),
    [
        (40, True, []),
        (60, False, ["fd_classifier10k_test 9.21"]),
        (80, True, ["fd_classifier10k_test 9.21", "D 1.235", "G 0.7"]),
        (100, True, ["fd_classifier10k_test 9.21", "D 1.235", "G 0.7", "images_per_s 1234"]),
        (160, True, ["fd_classifier10k_test 9.21", "D 1.235", "G 0.7", "images_per_s 1234"]),
    ],
)
def test_numbers_have_room_and_the_metric_is_first(terminal, columns, has_bar, labels):
    bar, _ = show(columns, terminal)
    assert len(bar.rstrip()) < columns
    assert bar.startswith("1000/4000 [")
    assert re.split(r" {2,}", bar.strip())[1:] == labels
    assert ("█" in bar) == has_bar


def test_each_evaluation_is_a_lasting_line_with_all_metrics(terminal):
    _, lines = show(100, terminal)
    (line,) = [line for line in lines if line.strip()]
    assert re.fullmatch(r"step 1000/4000  fd_classifier10k_test 9\.21  is_classifier10k 3\.4  0:00", line.strip())


def test_lines_without_a_terminal(capsys):
    shown = Progress(0, 4000)
    shown.show(500, {"D": 1.23456}, {})
    shown.show(500, {}, {})
    shown.show(1000, {"fd": 9.21}, {"fd": 9.21, "is": 3.4})
    shown.close()
    out, err = capsys.readouterr()
    assert re.fullmatch(
        r"step 500/4000  D 1\.235  \d:\d\d left\nstep 1000/4000  D 1\.235  fd 9\.21  \d:\d\d left\n", out
    )
    assert err == ""


def test_long_times_have_hours():
    assert [format_duration(seconds) for seconds in (0, 59.6, 3599, 90061)] == ["0:00", "1:00", "59:59", "25:01:01"]


def test_bar_needs_a_terminal(terminal, monkeypatch):
    terminal(80)
    monkeypatch.setattr(progress.sys, "stderr", io.StringIO())
    assert Progress(0, 10)._bar is None
