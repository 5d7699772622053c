"""A run is a folder: who may write into which, and where its files are."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gan.options.loader import dump_config, load_config, to_plain
from gan.run.lock import LEFTOVERS, LOCK, locked
from gan.runtime.distributed import rank
from gan.runtime.errors import UserError
from gan.runtime.files import write_atomically

CONFIG = "config.yaml"

# What a resumed run may change: how long it goes on, and if after a divergence; where its data lie and what it reports.
# A falling learning rate falls over the new number of steps from then on.
MAY_CHANGE = (
    *("train.steps", "train.on_nan"),
    *("data.root", "data.test_root", "data.download", "data.device_budget_gb", "data.workers"),
    *("log.", "eval.", "metrics.", "lipschitz.", "checkpoint."),
)


def get_run_name(config: Path) -> str:
    """Return what a run of a config file is called: the file's name after that of its folder."""
    path = Path(os.path.abspath(config))
    return f"{path.parent.name}-{path.stem}".lstrip("-")


def free_folder(name: str, parent: Path = Path("runs")) -> Path:
    """Return `runs/name`, or the first of `runs/name-2`, `runs/name-3`, ... that does not exist yet."""
    number = 1
    while (folder := parent / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder


def newest_folder(name: str, parent: Path = Path("runs")) -> Path:
    """Return the newest run called `name`, as numbered by `free_folder`; UserError when there is none."""
    folders = [path.parent for path in (*parent.glob(f"{name}/{CONFIG}"), *parent.glob(f"{name}-[0-9]*/{CONFIG}"))]
    if not folders:
        raise UserError(f"no run called {name} in {parent}/ to resume; name its folder with --out")
    return max(folders, key=lambda folder: (folder / CONFIG).stat().st_mtime)


def check_free(folder: Path) -> None:
    """Raise UserError when there is something in the folder of a new run already."""
    with _readable(folder):
        used = folder.exists() and (not folder.is_dir() or not all(map(_left_by_a_kill, folder.iterdir())))
        holds_run = used and (folder / CONFIG).exists()
    if used:
        if holds_run:
            raise UserError(f"--out {folder} holds a run already; add --resume to continue it, or choose another --out")
        raise UserError(f"--out {folder} exists and is not an empty folder; choose another --out")


@contextmanager
def opened(folder: Path, is_new: bool) -> Iterator[None]:
    """Work in the folder of a run, made when it is not there; UserError when another process is at work there.

    Of several processes of one run the first one holds the folder for all.
    """
    if rank() != 0:
        yield
        return
    with locked(folder):
        if is_new:
            check_free(folder)  # once more: another run may have been there since
        yield


def config_path(folder: Path) -> Path:
    """Return where the config of the run in `folder` is; UserError when it holds no run."""
    with _readable(folder):
        holds_run = (folder / CONFIG).is_file()
    if not holds_run:
        raise UserError(f"{folder} holds no run ({CONFIG} is missing); name the folder of one")
    return folder / CONFIG


def check_same(folder: Path, config: Any) -> None:
    """Raise UserError when the run in `folder` is another experiment than `config`."""
    if changed := changes(load_config(type(config), config_path(folder)), config):
        keys = ", ".join(changed)
        raise UserError(
            f"{folder} holds a run of another config (it differs in {keys}); keep that, or name another folder"
        )


def _left_by_a_kill(path: Path) -> bool:
    """Tell whether a run that was killed before it had written its config can have left this."""
    return path.name == LOCK or path.match(LEFTOVERS)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # no permission, a name that is too long
        raise UserError(f"cannot look into --out {folder}: {error.strerror}") from None


def write_config(folder: Path, config: Any) -> None:
    """Write the resolved config, making the folder when it is not there; UserError when that cannot be done."""
    text = dump_config(config)
    try:
        write_atomically(folder / CONFIG, lambda file: file.write(text.encode()))
    except OSError as error:
        raise UserError(f"cannot write to --out {folder}: {error.strerror}") from None


def changes(held: Any, config: Any) -> list[str]:
    """Return the dotted keys that make `config` another experiment than `held`."""
    return [key for key in differences(to_plain(held), to_plain(config)) if not key.startswith(MAY_CHANGE)]


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Return the dotted keys in which two nested mappings differ."""
    if not isinstance(a, dict) or not isinstance(b, dict):
        return [] if a == b else [path]
    keys = dict.fromkeys([*a, *b])
    return [key for k in keys for key in differences(a.get(k), b.get(k), f"{path}.{k}" if path else k)]
