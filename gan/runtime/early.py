"""What a command answers before it imports the libraries, which takes seconds: help, and errors in its command line."""

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Sequence

from gan.runtime.command import exit_code
from gan.runtime.job import is_launched
from gan.runtime.startup import exit_when_interrupted
from gan.runtime.without_libraries import LibraryNeededError, run_without_libraries

COMMAND = re.compile(r"(gan|classification)\.\w+$")
WITHOUT_LIBRARIES = ("gan.runs",)
"""Commands whose `run` needs no libraries either"""
SCHEMAS = ("gan.config", "classification.config")
"""Modules that a command imports late, when it has read of which kind a config is"""


def start_command(module: str, arguments: Sequence[str]) -> None:
    """Prepare the process of a command before its module is imported. End it if the module's `parse` has an answer.

    The same holds for the whole of a command `WITHOUT_LIBRARIES`.

    `parse` returns the options, raises UserError, or ends the process after --help. Nothing happens for other modules.
    """
    if not COMMAND.match(module):
        return
    exit_when_interrupted()
    spec = importlib.util.find_spec(module)
    main = module if spec is None or spec.submodule_search_locations is None else f"{module}.__main__"

    def parse() -> None:
        options = sys.modules[main].parse(arguments)
        if module in WITHOUT_LIBRARIES:
            sys.modules[main].run(options)
            return
        raise LibraryNeededError

    answer_early(main, parse)


def answer_early(module: str, answer: Callable[[], object]) -> None:
    """End this process if a function has an answer without libraries: it returns, or raises UserError.

    The function is called in another process, in which the module has been imported without libraries. It raises
    LibraryNeededError if it has no answer.
    """
    if is_launched() or "torch" in sys.modules:
        return
    code = run_without_libraries(
        lambda: list(map(importlib.import_module, [module, *SCHEMAS])), lambda: exit_code(answer)
    )
    if code is not None:
        sys.exit(code)
