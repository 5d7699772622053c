"""The run folder: its name, its config, and the checks that protect existing files."""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gan.options.loader import dump_config, load_config, to_plain
from gan.run.lock import LOCK, check_lock, locked
from gan.run.step_files import CHECKPOINTS
from gan.runtime.distributed import rank
from gan.runtime.errors import UserError
from gan.runtime.files import write_text
from gan.runtime.job import leave_note, read_note
from gan.runtime.temporary import is_temporary
from gan.runtime.weights import get_fingerprint

CONFIG = "config.yaml"
START, END = "---", "..."
"""Lines of YAML around the keys of a config in a run folder: without the last one, the file is cut"""
NOTE = "run folder"

# Keys that may differ when a run is resumed: the length of the run, the location of the data, and what is reported.
# A decaying learning rate decays over the new number of steps from then on.
RESUME_MAY_CHANGE = (
    *("train.steps", "train.on_nan"),
    *("data.root", "data.held_out", "data.download", "data.device_budget_gb", "data.workers", "data.allow_changes"),
    *("plugins", "log.", "eval.", "metrics.", "lipschitz.", "checkpoint."),
)
# Except that this key may not name another classifier, NAME@FINGERPRINT: metrics of both would have the same names.
FINGERPRINTED = ("metrics", "classifier")
_RESTORE = "restore it, such as from the config of a run with the same keys"


def get_run_name(config: Path) -> str:
    """Return the default name of a run: the name of the config file after that of its folder, as `digits-dcgan`."""
    path = Path(os.path.abspath(config))
    return f"{path.parent.name}-{path.stem}".lstrip("-")


def find_free_folder(name: str, parent: Path = Path("runs")) -> Path:
    """Return `runs/NAME`, or the first of `runs/NAME-2`, `runs/NAME-3`, ... that does not exist."""
    number = 1
    while (folder := parent / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder


def find_newest_folder(name: str, parent: Path = Path("runs")) -> Path:
    """Return the newest run with this name, numbered as in `find_free_folder`. Raises UserError without one."""
    numbered = re.compile(f"{re.escape(name)}(-[0-9]+)?")  # other folders may be copies that a user has made
    folders = [path.parent for path in parent.glob(f"*/{CONFIG}") if numbered.fullmatch(path.parent.name)]
    if not folders:
        raise UserError(f"there is no run {name} in {parent}/ to resume; give its folder with --out")
    return max(folders, key=lambda folder: (folder / CONFIG).stat().st_mtime)


def check_free(folder: Path) -> None:
    """Raise UserError when the folder of a new run is not empty."""
    with _readable(folder):
        used = folder.exists() and (not folder.is_dir() or not all(map(_is_leftover, folder.iterdir())))
        holds_run = used and (folder / CONFIG).exists()
    if used:
        if holds_run:
            raise UserError(
                f"--out {folder} already contains a run; add --resume to continue it, or choose another --out"
            )
        raise UserError(f"--out {folder} exists and is not an empty folder; choose another --out")


@contextmanager
def hold(folder: Path, is_new: bool) -> Iterator[None]:
    """Hold the lock of a run folder, creating the folder if necessary.

    Rank 0 holds the lock for all processes of a run. Raises UserError when another run uses the folder. If torchrun
    restarts the job, `find_folder_of_job` returns this folder. A folder that was created is removed if it stays empty.
    """
    if rank() != 0:
        yield
        return
    creates = not folder.exists()
    try:
        with locked(folder):
            if is_new:
                check_free(folder)  # again, because another run may have used the folder in the meantime
            leave_note(NOTE, str(folder))
            yield
    finally:
        if creates:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def find_folder_of_job() -> Path | None:
    """Return the folder that an earlier attempt of this job held, if torchrun has restarted the job; otherwise None."""
    note = read_note(NOTE)
    return None if note is None else Path(note)


def config_path(folder: Path) -> Path:
    """Return the path of the config of the run in `folder`. Raises UserError when `folder` contains no run.

    An empty file, which would be the default config, is the config of no run, and neither is one that is cut: the keys
    that are missing would have their default values.
    """
    path = folder / CONFIG
    with _readable(folder):
        if not path.is_file():
            near = [
                folder.parent / CONFIG,
                *sorted(folder.glob(f"*/{CONFIG}")),
                *sorted(folder.glob(f"cells/*/{CONFIG}")),
            ]
            hint = next((f", such as {path.parent}" for path in near if path.is_file()), "")
            raise UserError(f"{folder} contains no run ({CONFIG} is missing); give the folder of a run{hint}")
        lines = path.read_text("utf-8", errors="replace").rstrip().splitlines()
    if all(line.startswith("#") or line.strip() in ("", "{}", START, END) for line in lines):
        raise UserError(f"{path} is empty; {_RESTORE}")
    if START in lines and lines[-1] != END:  # earlier versions wrote neither
        raise UserError(f"{path} is cut, because its last line '{END}' is missing; {_RESTORE}")
    return path


def check_config_of_run(path: Path) -> None:
    """Raise UserError if a config file is that of a run, with checkpoints beside it, and is empty or cut."""
    if path.name == CONFIG and (path.parent / CHECKPOINTS).exists():
        config_path(path.parent)


def write_config(folder: Path, config: Any, notes: Sequence[str] = ()) -> None:
    """Write the resolved config into a run folder, creating the folder if necessary. Raises UserError on failure.

    The `notes`, a line each, are comments at the top of the file. Those of the run's earlier config are kept.
    """
    check_lock(folder)
    path = folder / CONFIG
    try:
        earlier = path.read_text("utf-8").splitlines() if path.exists() else []
        kept = itertools.takewhile(lambda line: line.startswith("#"), earlier)
        comments = dict.fromkeys([*kept, *(f"# {note}" for note in notes)])
        write_text(path, "\n".join([*comments, START, dump_config(config) + END, ""]))
    except OSError as error:
        raise UserError(f"cannot write to --out {folder}: {error.strerror}") from None


def check_same_experiment(folder: Path, config: Any) -> Any:
    """Return the config of the run in `folder`. Raises UserError when `config` is not a continuation of this run."""
    saved = load_config(type(config), config_path(folder))
    refuse_changes(folder, saved, config, "use the same values, or another folder")
    return saved


def refuse_changes(run: Path, saved: Any, config: Any, remedy: str) -> None:
    """Raise UserError when `config` is not a continuation of `saved`, the config of `run`. `remedy` says what to do."""
    if changed := changed_keys(saved, config):
        raise UserError(f"{run} contains a run with another config (different: {', '.join(changed)}); {remedy}")


def changed_keys(saved: Any, config: Any) -> list[str]:
    """Return the dotted keys that differ between two configs and that a resumed run may not change."""
    old, new = to_plain(saved), to_plain(config)
    keys = [key for key in differing_keys(old, new) if not key.startswith(RESUME_MAY_CHANGE)]
    section, name = FINGERPRINTED
    names = (values.get(section, {}).get(name) for values in (old, new))
    # A name has no fingerprint if its file cannot be read, which is an error of its own where the classifier is used.
    fingerprints = {get_fingerprint(name) for name in names if name is not None} - {None}
    return [*keys, ".".join(FINGERPRINTED)] if len(fingerprints) > 1 else keys


def differing_keys(a: Any, b: Any, path: str = "") -> list[str]:
    """Return the dotted keys that differ between two nested mappings."""
    if not isinstance(a, dict) or not isinstance(b, dict):
        return [] if a == b else [path]
    keys = dict.fromkeys([*a, *b])
    return [key for k in keys for key in differing_keys(a.get(k), b.get(k), f"{path}.{k}" if path else k)]


def _is_leftover(path: Path) -> bool:
    """Return whether a run that was killed before it wrote its config may have left this file."""
    return path.name == LOCK or is_temporary(path)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # no permission, or a name that is too long
        raise UserError(f"cannot read the run folder {folder}: {error.strerror}") from None
