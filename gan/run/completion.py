"""Completion of the command line of a training script, through argcomplete: options, shipped configs, and keys."""

import argparse
import importlib
from collections.abc import Iterator
from typing import Any

from gan.options.shipped import CONFIGS
from gan.runtime.without_libraries import run_without_libraries


def complete(parser: argparse.ArgumentParser, module: str) -> int | None:
    """Print what argcomplete asks for, and return the exit code.

    `config` and `overrides` of the parser are a config, and keys of the dataclass `Config` in a module.
    """
    import argcomplete

    completers = {"config": list_configs, "overrides": lambda **_: list_keys(importlib.import_module(module).Config())}
    for action in parser._actions:
        if action.dest in completers:
            action.completer = completers[action.dest]  # pyright: ignore[reportAttributeAccessIssue]

    def import_modules() -> None:
        importlib.import_module("gan.options.explain")
        importlib.import_module(module)

    return run_without_libraries(import_modules, lambda: argcomplete.autocomplete(parser) or 0)


def list_configs(prefix: str, **_: Any) -> list[str]:
    """Return the shipped configs that begin with `prefix`, or, if there are none, the YAML files."""
    from argcomplete.completers import FilesCompleter

    names = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml")]
    return [name for name in names if name.startswith(prefix)] or list(FilesCompleter(("yaml",))(prefix))


def list_keys(config: Any) -> Iterator[str]:
    """Yield `key=` for each key of a config, and `key=NAME` for each choice."""
    from gan.options.explain import Key

    for found in Key("", type(config), config, "").walk():
        for key in [found, *found.walk()]:
            yield from (f"{key.path}={name}" for name in (key.family.registry if key.family else [""]))
