"""Commands whose standard output or standard error fails: they end with their result, and say what is lost."""

import sys

import pytest

import train_gan
from gan import __main__ as all_commands
from gan.runtime.command import exit_code
from gan.sample import __main__ as sample

# A command that prints to both streams, of which some are lost in some way.
PROGRAM = """\
import os, sys
from gan.runtime.command import exit_code
way, streams, prints_results = sys.argv[1], map(int, sys.argv[2]), sys.argv[3] == "results"
for stream in streams:
    name = ("", "stdout", "stderr")[stream]
    if way == "closed":
        os.close(stream)
        setattr(sys, name, None)
    elif way == "no reader":
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, stream)
    else:
        os.dup2(os.open("/dev/full", os.O_WRONLY), stream)
def command():
    print("a result")
    print("a warning", file=sys.stderr)
    print("another result" * 10_000)
    with open(sys.argv[4], "w") as file:
        print("the last result", file=file)
    os.write(1, b""), os.write(2, b"")  # as other libraries do
sys.exit(exit_code(command, prints_results=prints_results))
"""
REASONS = {"closed": "not writable", "no reader": "Broken pipe", "full": "No space left on device"}


@pytest.mark.parametrize("way", REASONS)
@pytest.mark.parametrize("streams", ["1", "2", "12"])
def test_command_goes_on_without_console(python, tmp_path, way, streams):
    done = python.run("-c", PROGRAM, way, streams, "files", tmp_path / "file")
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == "the last result\n"
    if streams == "1":
        error = f"error: cannot write to standard output ({REASONS[way]}); continuing without it\n"
        assert (done.stdout, done.stderr) == ("", f"{error}a warning\n")
    elif streams == "2":
        assert f"error: cannot write to standard error ({REASONS[way]}); continuing without it\n" in done.stdout
        assert done.stdout.startswith("a result\n")


@pytest.mark.parametrize("way", REASONS)
def test_command_whose_results_are_lost_fails(python, tmp_path, way):
    assert python.run("-c", PROGRAM, way, "1", "results", tmp_path / "file").returncode == 2
    assert python.run("-c", PROGRAM, way, "2", "results", tmp_path / "file").returncode == 0


@pytest.mark.parametrize(
    ("command", "option"),
    [(train_gan, "--print-config"), (train_gan, "--help"), (sample, "--version"), (all_commands, "--help")],
)
def test_answer_to_an_option_is_a_result(command, option, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["command", option])
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert command.main() == 2
    assert capsys.readouterr().err.startswith("error: cannot write to standard output (No space left on device)")


def test_characters_that_the_console_does_not_have_are_escaped(tmp_path, monkeypatch):
    for encoding, printed in (("utf-8", b"\xc3\xa9 \\udcff\n"), ("ascii", b"\\xe9 \\udcff\n")):
        with (tmp_path / encoding).open("w", encoding=encoding, errors="strict") as stream:
            monkeypatch.setattr("sys.stdout", stream)
            assert exit_code(lambda: print("\u00e9 \udcff")) == 0
            assert (tmp_path / encoding).read_bytes() == printed  # before the stream is closed
            assert sys.stdout is stream


def test_lines_are_visible_at_once(tmp_path, monkeypatch):
    path = tmp_path / "output"

    def command():
        print("seed 0")
        assert path.read_text() == "seed 0\n"

    with path.open("w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        assert exit_code(command) == 0
