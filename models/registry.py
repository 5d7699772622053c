"""A table from names to classes, so that a YAML file can choose a part by its name."""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Entry = TypeVar("Entry", bound=type)


class UnknownNameError(ValueError):
    """A name that no entry has; the message lists the entries and the likely intention."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the choice closest to `name`, or `""` when none is close."""
    close = difflib.get_close_matches(name, list(choices), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


class Registry(Generic[T]):
    """The classes of one kind by name. A name is taken once: a second registration raises."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, type[Any]] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Class decorator that enters the class under `name`; ValueError when the name is taken."""

        def enter(cls: Entry) -> Entry:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is registered twice: {self._entries[name]} and {cls}")
            self._entries[name] = cls
            return cls

        return enter

    def get(self, name: str) -> type[T]:
        """Return the class called `name`, or raise `UnknownNameError`."""
        if name not in self._entries:
            hint = did_you_mean(name, self._entries)
            raise UnknownNameError(f"unknown {self.kind} '{name}' (choices: {', '.join(self)}){hint}")
        return self._entries[name]

    def get_name(self, cls: type[T]) -> str:
        """Return the name under which `cls` was registered; KeyError when it was not."""
        for name, entry in self._entries.items():
            if entry is cls:
                return name
        raise KeyError(f"{cls} is not a registered {self.kind}")

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries


def import_submodules(package: ModuleType) -> None:
    """Import every module of `package`, so that a new file there registers itself with no other edit."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
