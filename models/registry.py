"""Registries map names to classes, so that a YAML file can select a class by its name."""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Class = TypeVar("Class", bound=type)


class UnknownNameError(ValueError):
    """Raised for a name that is not registered. The message lists the registered names and suggests the closest one."""


def did_you_mean(name: str, choices: Iterable[str], prefix: str = "") -> str:
    """Return `"; did you mean 'x'?"` for the choice closest to `name`, or `""` if no choice is close.

    The closest ones are those that begin with the name. The choice is shown with `prefix` before it.
    """
    choices = list(choices)
    close = [choice for choice in choices if name and choice.startswith(name)]
    close = close or difflib.get_close_matches(name, choices, n=1)
    return f"; did you mean '{prefix}{close[0]}'?" if close else ""


class Registry(Generic[T]):
    """A mapping from unique names to the classes of one kind, such as the generators.

    Example::

        GENERATORS: Registry["GeneratorConfig"] = Registry("generator")

        @GENERATORS.register("dcgan")
        class DCGANGeneratorConfig(GeneratorConfig): ...

        GENERATORS.get("dcgan")  # DCGANGeneratorConfig

    Iteration yields the registered names in alphabetical order, without aliases.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._classes: dict[str, type[Any]] = {}
        self._aliases: dict[str, str] = {}

    def register(self, name: str, aliases: Sequence[str] = ()) -> Callable[[Class], Class]:
        """Return a class decorator that registers the class under `name`.

        `aliases` are former names. `get` and `in` accept them, so that old configs still load.
        Raises ValueError if the name or an alias is already in use.
        """

        def decorator(cls: Class) -> Class:
            for new in (name, *aliases):
                if new in self:
                    raise ValueError(f"{self.kind} '{new}' is registered twice: {self.get(new)} and {cls}")
            self._classes[name] = cls
            self._aliases.update(dict.fromkeys(aliases, name))
            return cls

        return decorator

    def get(self, name: str) -> type[T]:
        """Return the class with this name or alias. Raises `UnknownNameError` if there is none."""
        name = self.resolve(name)
        if name not in self._classes:
            hint = did_you_mean(name, self._classes)
            raise UnknownNameError(f"unknown {self.kind} '{name}' (choices: {', '.join(self)}){hint}")
        return self._classes[name]

    def get_name(self, cls: type[T]) -> str:
        """Return the name of a registered class. Raises KeyError if the class is not registered."""
        for name, registered in self._classes.items():
            if registered is cls:
                return name
        raise KeyError(f"{cls} is not a registered {self.kind}")

    def resolve(self, name: str) -> str:
        """Return the current name for an alias. Any other name is returned unchanged."""
        return self._aliases.get(name, name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def __contains__(self, name: object) -> bool:
        return name in self._classes or name in self._aliases


def import_submodules(package: ModuleType) -> None:
    """Import every module of `package`, so that the classes in a new file are registered without any other edit."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
