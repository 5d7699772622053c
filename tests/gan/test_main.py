"""The one command for all others, `convnorm-gan COMMAND` or `python -m gan COMMAND`."""

import pytest

from gan.__main__ import COMMANDS

SCRIPT = "from gan.__main__ import main\nraise SystemExit(main())\n"


@pytest.fixture(params=["convnorm-gan", "python -m gan"])
def program(request, tmp_path, python):
    """What a user types to call the command, and a function that returns what it prints."""
    (tmp_path / "convnorm-gan").write_text(SCRIPT)
    start = ["-m", "gan"] if request.param == "python -m gan" else [tmp_path / "convnorm-gan"]

    def run(*arguments):
        done = python.run(*start, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return request.param, run


@pytest.mark.parametrize("command", ["train", "compare", "sample"])  # one with each kind of parser or text
def test_help_of_a_command_names_what_was_typed(program, command):
    typed, run = program
    text = run(command, "--help")
    assert text.startswith(f"usage: {typed} {command} ")
    assert f"-m {COMMANDS[command][0]}" not in text


def test_list_of_commands_names_what_was_typed(program):
    typed, run = program
    assert run().startswith(f"usage: {typed} COMMAND ...\n")


def test_command_that_is_started_by_itself_names_its_module(python):
    assert python.run("-m", "gan.export", "--help").stdout.startswith("usage: python -m gan.export ")
