"""Chooses how a path is read: as a folder or as an archive."""

from pathlib import Path

from gan.data.files.base import ImageFiles
from gan.data.files.folder import FolderFiles
from gan.data.files.tar_archive import TarFiles
from gan.data.files.zip_archive import ZipFiles
from gan.runtime.errors import UserError
from gan.runtime.paths import user_errors
from gan.runtime.text import printable

# The first bytes of archives. Those of .tar are a file name, and its format begins later.
MAGIC = {b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"\x1f\x8b": "gz", b"\xfd7zXZ\x00": "xz", b"BZh": "bz2"}
TAR_MAGIC = slice(257, 262), b"ustar"


def open_files(path: Path, key: str) -> tuple[ImageFiles, str]:
    """Return the images in a folder or an archive, and the folder in them that `path` means: '' for all of them.

    A path such as `images.zip/train` means a folder in an archive. Raises UserError, which begins with the config key
    of the path, if there are no images or if they cannot be read.
    """
    with user_errors(path, key):
        archive = find_archive(path)
    if archive is None:
        return FolderFiles(path, key), ""
    files = _open_archive(archive, key)
    folder = "".join(f"{part}/" for part in path.relative_to(archive).parts)
    if not any(name.startswith(folder) for name in files.names):
        raise UserError(f"{key}: no images in '{printable(path)}'")
    return files, folder


def find_archive(path: Path) -> Path | None:
    """Return the file that a path means, or in which a path such as `images.zip/train` is; None if there is none."""
    return next((parent for parent in (path, *path.parents) if parent.is_file()), None)


def _open_archive(path: Path, key: str) -> ImageFiles:
    """Return the images in an archive, which is recognized by its contents."""
    with user_errors(path, key), path.open("rb") as file:
        start = file.read(512)
    kind = next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), path.suffix.lower().lstrip("."))
    if kind == "zip":
        return ZipFiles(path, key)
    if kind in ("gz", "xz", "bz2"):
        return TarFiles(path, key, kind)
    if kind == "tar" or start[TAR_MAGIC[0]] == TAR_MAGIC[1]:
        return TarFiles(path, key, "")
    raise UserError(
        f"{key}: cannot read '{printable(path)}': Not a directory, and no archive (.zip, .tar, .tar.gz, .tar.xz,"
        " .tar.bz2)"
    )
