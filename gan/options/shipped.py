"""The configs that come with the toolkit. They can be named in any working folder: `cifar10/fast`."""

import os
from pathlib import Path

from models.registry import did_you_mean

CONFIGS = Path(__file__).parents[2] / "configs"


def find_shipped(name: Path) -> Path | None:
    """Return the config of the toolkit with a name such as `cifar10/fast` or `configs/cifar10/fast.yaml`, or None."""
    parts = name.parts[1:] if name.parts[:1] == ("configs",) else name.parts
    path = CONFIGS.joinpath(*parts)
    path = path if path.suffix == ".yaml" else path.with_name(f"{path.name}.yaml")
    return path if os.path.isfile(path) else None


def suggest_shipped(path: Path) -> str:
    """Return `"; did you mean 'x'?"` for the config of the toolkit closest to a path that does not exist, or `""`."""
    names = [shipped.relative_to(CONFIGS).with_suffix("").as_posix() for shipped in CONFIGS.rglob("*.yaml")]
    return did_you_mean("/".join(path.with_suffix("").parts[-2:]), sorted(names, key=len))


def config_path(text: str) -> Path:
    """Return the path of a config: a file of the user, or one of the toolkit; for use as the `type` of an option."""
    path = Path(text)
    return path if os.path.lexists(path) else find_shipped(path) or path
