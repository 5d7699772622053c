import re
import warnings

import pytest
import torch

from gan.runtime.command import Parser, exit_code
from gan.runtime.errors import UserError


def test_user_error_is_one_line_and_exit_code_2(capsys):
    def command():
        raise UserError("what is wrong,\nand what to do")

    assert exit_code(command) == 2
    assert capsys.readouterr() == ("", "error: what is wrong, and what to do\n")


def test_other_errors_propagate():
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 / 0)


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**50), lambda: bytearray(2**50)], ids=["torch", "python"])
def test_out_of_memory_is_a_user_error(allocate, capsys):
    assert exit_code(allocate) == 2
    assert re.fullmatch(r"error: out of memory; use smaller networks, .*\(.+\)\n", capsys.readouterr().err)


def test_user_warnings_are_one_line(capsys):
    original = warnings.formatwarning

    def command():
        print(warnings.formatwarning("use more images", UserWarning, "file.py", 1), end="")
        print(warnings.formatwarning("old", DeprecationWarning, "file.py", 1), end="")

    assert exit_code(command) == 0
    assert capsys.readouterr().out == "warning: use more images\nfile.py:1: DeprecationWarning: old\n"
    assert warnings.formatwarning is original


def test_invalid_option_is_a_user_error():
    with pytest.raises(UserError, match=r"unrecognized arguments: --frog \(see --help\)"):
        Parser(prog="x").parse_args(["--frog"])
