"""Packs folders into archives, in an order that differs from the sorted one."""

import io
import os
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tar.xz", ".tar.bz2")


def encode(seed: int, size: tuple[int, int] = (10, 9)) -> bytes:
    """Return a random image as a PNG file."""
    pixels = np.random.default_rng(seed).integers(256, size=(*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_files(root: Path, files: dict[str, bytes]) -> Path:
    """Write files with these paths to a folder, and return it."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def pack(archive: Path, files: dict[str, bytes] | Iterable[tuple[str, bytes]]) -> Path:
    """Write files to an archive, whose suffix is one of `SUFFIXES`, in the given order. Return the archive."""
    items = files.items() if isinstance(files, dict) else files
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in items:
                file.writestr(name, data)
        return archive
    compression = archive.suffix.removeprefix(".tar").lstrip(".")
    with tarfile.open(archive, f"w:{compression}", format=tarfile.PAX_FORMAT) as file:
        for name, data in items:
            member = tarfile.TarInfo(os.fspath(name))
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return archive
