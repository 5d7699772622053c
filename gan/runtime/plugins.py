"""Modules of the user that register components: their names, and their import.

A plugin is the name of a module that Python can import, or the path of a `.py` file, whose module has the name of the
file. Importing it runs its code, so only the user may ask for that, and not a file that somebody else may have written.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from gan.runtime.errors import UserError
from gan.runtime.text import printable
from gan.runtime.without_libraries import require_libraries


def get_module_name(plugin: str) -> str:
    """Return the name of the module of a plugin."""
    return Path(plugin).stem if plugin.endswith(".py") else plugin


def is_imported(plugin: str) -> bool:
    """Return whether a module with the name of the plugin has been imported."""
    return get_module_name(plugin) in sys.modules


def import_plugins(plugins: Sequence[str], where: str) -> None:
    """Import plugins. `where` names them in errors. Raises UserError if there is no such module, or if it fails."""
    for plugin in plugins:
        name = get_module_name(plugin)
        try:
            if plugin.endswith(".py"):
                path = Path(plugin).expanduser().resolve(strict=True)
                require_libraries()
                _import_file(name, path)
            else:
                package = name.partition(".")[0]
                if importlib.util.find_spec(package) is None:
                    raise ModuleNotFoundError(f"No module named '{package}'")
                require_libraries()
                importlib.import_module(name)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        except (Exception, SystemExit) as error:  # any error of the user's code
            raise UserError(
                f"{where}: cannot import '{printable(plugin)}': {type(error).__name__}: {error}; name a module that"
                " Python can import, or the path of a .py file"
            ) from error


def _import_file(name: str, path: Path) -> None:
    if (existing := sys.modules.get(name)) is not None:
        file = getattr(existing, "__file__", None)
        if file is None or Path(file).resolve() != path:
            raise UserError(f"'{printable(path)}' has the name of another module; rename the file")
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"'{printable(path)}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
