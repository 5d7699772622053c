"""What all commands share: errors in one line, and an exit code for each outcome."""

import argparse
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from gan import __version__
from gan.runtime import startup
from gan.runtime.console import open_console
from gan.runtime.errors import Stopped, UserError, is_out_of_memory, to_line
from gan.runtime.files import WriteError
from gan.runtime.job import claim_first_failure, launched_world_size
from gan.runtime.paths import expand_path
from gan.runtime.plugins import import_plugins
from gan.runtime.text import fit

OVERRIDE = re.compile(r"[\w.]+=")


class Parser(argparse.ArgumentParser):
    """Argument parser that raises UserError for invalid options, with the options of all commands.

    Its texts name the command as the user typed it. `prog` is the name of a command that was started by itself.
    """

    def __init__(self, prog: str, **options: Any):
        super().__init__(prog=startup.typed_command or prog, **options)
        self.register("type", Path, _expand)
        self.add_argument(
            "--plugins", type=_import_plugins, metavar="M,M", help="import your modules, also those that a run names"
        )
        self.add_argument("--version", action="version", version=f"convnorm-gan {__version__}")

    def format_help(self) -> str:
        """Return the help text with lines that fit into the terminal."""
        return fit(super().format_help())

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message} (see --help)")

    def require_suffix(self, option: str, path: Path | None, *suffixes: str) -> None:
        """Raise UserError if an option names a file, and not with one of these endings."""
        if path is not None and path.suffix.lower() not in suffixes:
            self.error(f"{option} {path}: the name must end in {' or '.join(suffixes)}")


def _expand(text: str) -> Path:
    """Return the path of an option. A shell leaves `~` as it is in --out=~/run."""
    try:
        return expand_path(text, "path")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _import_plugins(text: str) -> list[str]:
    plugins = text.split(",")
    import_plugins(plugins, "--plugins")
    return plugins


def split_overrides(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the paths among words of a command line, and the overrides `key.sub=value`.

    What exists is a path: the folders of a comparison have names such as `conv_norm,stride=paper-seed0`.
    """
    paths, overrides = [], []
    for word in words:
        (overrides if OVERRIDE.match(word) and not os.path.lexists(word) else paths).append(word)
    return paths, overrides


def whole_number(text: str) -> int:
    """Return a whole number, such as 50000 or 5e4; for use as the `type` of an option."""
    for parse in (int, float):
        with suppress(ValueError, OverflowError):
            if (value := parse(text)) == int(value):
                return int(value)
    raise argparse.ArgumentTypeError(f"'{text}' is not a whole number")


def exit_code(command: Callable[[], object], distributed: bool = False, prints_results: bool = True) -> int:
    """Run a command and return its exit code.

    0 after success, 2 after user errors, 130 after Ctrl-C, and the code of a run that stopped itself. User errors and
    warnings are printed in one line each. Other exceptions propagate. When several processes fail, only the first
    prints its error. A command that is not `distributed` refuses to run in several processes.

    Without a console, the command goes on. Its exit code is 2 then if it `prints_results`, which are lost. A command
    that ends itself, as argparse does after --help, has printed results.
    """
    startup.raise_when_interrupted()
    with open_console() as output, short_messages():
        try:
            code = _run(command, distributed)
        except SystemExit as ended:
            code, prints_results = int(ended.code or 0), True
        output.flush()
        return 2 if code == 0 and prints_results and output.is_lost else code


def _run(command: Callable[[], object], distributed: bool) -> int:
    try:
        if not distributed and launched_world_size() > 1:
            count = launched_world_size()
            raise UserError(f"this command must run in a single process, not in {count}; start it without torchrun")
        command()
    except Stopped as stop:
        if claim_first_failure():
            print(stop, file=sys.stderr)
        return stop.code
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return startup.EXIT_CODE
    except Exception as error:
        message = get_user_message(error)
        is_first = claim_first_failure()
        if message is None and is_first:
            raise
        if message is not None and is_first:
            print("\n".join(f"error: {line}" for line in message.splitlines()), file=sys.stderr)
        return 1 if message is None else 2
    return 0


@contextmanager
def short_messages() -> Iterator[None]:
    """Print warnings in one line, and no traceback for errors in threads of TensorBoard.

    TensorBoard's writer raises the error of its thread again at its next call.
    """
    format_warning, excepthook = warnings.formatwarning, threading.excepthook

    def format_in_one_line(message: Warning | str, category: type[Warning], *location: Any) -> str:
        if category is not UserWarning:
            return format_warning(message, category, *location)
        return f"warning: {to_line(str(message))}\n"

    def skip_tensorboard(args: threading.ExceptHookArgs) -> None:
        if not type(args.thread).__module__.startswith("tensorboard."):
            excepthook(args)

    warnings.formatwarning, threading.excepthook = format_in_one_line, skip_tensorboard
    try:
        yield
    finally:
        warnings.formatwarning, threading.excepthook = format_warning, excepthook


def get_user_message(error: Exception) -> str | None:
    """Return the message for an error that the user can fix, a line for each error; None for any other error."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, WriteError):
        return to_line(str(error))
    if isinstance(error, OSError) and error.strerror:  # such as no permission, a long name, or too many open files
        return to_line(f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror)
    reason = str(error).partition("\n\n")[0] or type(error).__name__
    if is_out_of_memory(error):
        return to_line(f"out of memory; use smaller networks, batches or images ({reason})")
    if type(error).__module__.startswith(("torch._dynamo.", "torch._inductor.")):
        return to_line(f"cannot compile the networks; set train.compile=false ({reason})")
    return None
