"""Run what needs only the options of components before their libraries are imported, which takes seconds.

The options of a component are in one file with its networks and functions. Here the toolkit is imported with objects
that stand in for PyTorch and all other libraries: they are enough to define classes and functions, but not to use them.
This happens in a process of its own, so that the toolkit can be imported with its libraries afterwards.
"""

import importlib.abc
import importlib.machinery
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

TOOLKIT = ("classification", "gan", "metrics", "models")
FAST = ("yaml",)
"""Libraries that are used, because their import takes no time"""
FAILED = 255


class LibraryNeededError(BaseException):
    """Raised where something needs a library. It is no Exception, so that no other code handles it."""


def run_without_libraries(prepare: Callable[[], object], command: Callable[[], int]) -> int | None:
    """Return the exit code of a command, which runs in another process; None if it needs libraries.

    Only `prepare`, which comes before it, may import modules.
    """
    pid = os.fork()
    if pid == 0:
        code = FAILED
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # this process reports it
            code = _run(prepare, command)
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if 0 <= code < FAILED else None


def _run(prepare: Callable[[], object], command: Callable[[], int]) -> int:
    stand_in = _StandIn()
    sys.meta_path.insert(0, _Finder(stand_in))
    try:
        prepare()
        stand_in.defines = False
        return command()
    except BaseException:  # also an error of code that expects a library and not what stands in for it
        return FAILED


def require_libraries() -> None:
    """Raise LibraryNeededError in a process without libraries, before it would run code of the user."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        raise LibraryNeededError


class _StandIn:
    """Stands in for everything in libraries while `defines` is True. Afterwards, using it is an error."""

    def __init__(self):
        self.defines = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.defines:
            raise LibraryNeededError
        return self

    def __mro_entries__(self, bases: tuple) -> tuple:
        """Leave this out of the bases of a class."""
        return ()

    def __or__(self, other: Any) -> Any:
        """Return the type `self | other`, as a type that a field may have."""
        return self()

    __ror__ = __or__


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules of libraries, and creates modules with a stand-in for everything in them."""

    def __init__(self, stand_in: _StandIn):
        self.stand_in = stand_in

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return None for a module of Python, of the toolkit, or of what is fast or has been imported.

        Afterwards, also for one that is missing, so that its absence is reported without the libraries.
        """
        package = fullname.partition(".")[0]
        if package in sys.stdlib_module_names or package in (*TOOLKIT, *FAST):
            return None
        known = sys.modules.get(package)
        if known is not None and not isinstance(known.__loader__, _Finder):
            return None
        if not self.stand_in.defines:
            others = (finder for finder in sys.meta_path if finder is not self)
            if not any(finder.find_spec(fullname, path, target) for finder in others):
                return None
        self.stand_in()
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return a module whose attributes are stand-ins."""
        return _Module(spec.name, self.stand_in)

    def exec_module(self, module: ModuleType) -> None:
        """Execute nothing."""


class _Module(ModuleType):
    def __init__(self, name: str, stand_in: _StandIn):
        super().__init__(name)
        self._stand_in = stand_in

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stand_in, name)
