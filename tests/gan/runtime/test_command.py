import argparse
import re
import warnings
from pathlib import Path

import pytest
import torch

from gan.runtime.command import Parser, exit_code, whole_number
from gan.runtime.errors import UserError


def test_user_error_is_one_line_and_exit_code_2(capsys):
    def command():
        raise UserError("what is wrong,\nand what to do")

    assert exit_code(command) == 2
    assert capsys.readouterr() == ("", "error: what is wrong, and what to do\n")


def test_control_sequences_of_a_message_are_escaped(capsys):
    def command():
        print(warnings.formatwarning("no images in a\x1b[2J", UserWarning, "file.py", 1), end="")
        raise UserError("no images in \x1b]0;title\x07\udcff \u00e9")

    assert exit_code(command) == 2
    assert capsys.readouterr() == (
        "warning: no images in a\\x1b[2J\n",
        "error: no images in \\x1b]0;title\\x07\\udcff \u00e9\n",
    )


def test_path_of_an_option_may_begin_with_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    parser = Parser("command")
    parser.add_argument("--out", type=Path)
    assert parser.parse_args(["--out=~/run"]).out == Path("/home/me/run")
    for text, message in (
        ("", "the path is empty"),
        ("~nobody-here/x", "the home folder in '~nobody-here/x' is unknown"),
    ):
        with pytest.raises(UserError, match=f"^argument --out: path: {message}"):
            parser.parse_args(["--out", text])


def test_other_errors_propagate():
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 / 0)


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**50), lambda: bytearray(2**50)], ids=["torch", "python"])
def test_out_of_memory_is_a_user_error(allocate, capsys):
    assert exit_code(allocate) == 2
    assert re.fullmatch(r"error: out of memory; use smaller networks, .*\(.+\)\n", capsys.readouterr().err)


def raise_import_error():
    try:
        raise ImportError("library.so: failed to map segment from shared object")
    except ImportError as error:
        raise ImportError("the package seems to be broken") from error


def fail(error):
    raise error


@pytest.mark.parametrize(
    "command",
    [
        lambda: torch.empty(2**62, 8),
        lambda: fail(RuntimeError("could not create a primitive")),
        lambda: fail(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
        lambda: fail(RuntimeError("can't start new thread")),
        raise_import_error,
    ],
)
def test_lack_of_memory_in_a_library_is_a_user_error(command, capsys):
    assert exit_code(command) == 2
    assert re.fullmatch(r"error: out of memory; .*\n", capsys.readouterr().err)


def test_unsupported_operation_is_no_lack_of_memory():
    with pytest.raises(RuntimeError, match="could not create"):
        exit_code(lambda: fail(RuntimeError("could not create a primitive descriptor for a convolution")))


def test_error_of_the_system_without_a_file_is_a_user_error(capsys):
    assert exit_code(lambda: fail(OSError(24, "Too many open files"))) == 2
    assert capsys.readouterr().err == "error: Too many open files\n"


def test_missing_compiler_is_a_user_error(capsys):
    from torch._dynamo.exc import BackendCompilerFailed

    error = BackendCompilerFailed(len, RuntimeError("No working C++ compiler found"), None)
    assert exit_code(lambda: fail(error)) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: cannot compile the networks; set train.compile=false (")
    assert "No working C++ compiler found" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("text", "number"), [("50", 50), ("5e4", 50_000), ("-1", -1), ("9" * 300, int("9" * 300))])
def test_whole_number(text, number):
    assert whole_number(text) == number


@pytest.mark.parametrize("text", ["1.5", "x", "", "inf", "nan", "1e400", "9" * 5000])
def test_other_words_are_no_whole_numbers(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number"):
        whole_number(text)


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


def test_ending_of_the_name_of_a_file():
    parser = Parser("frog")
    for path in (None, Path("a.png"), Path("b.PNG")):
        parser.require_suffix("--out", path, ".png", ".gif")
    with pytest.raises(UserError, match=r"^--out a.jpg: the name must end in .png or .gif \(see --help\)$"):
        parser.require_suffix("--out", Path("a.jpg"), ".png", ".gif")
