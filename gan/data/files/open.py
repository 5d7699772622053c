"""Chooses how a path is read: as a folder or as an archive."""

from pathlib import Path

from gan.data.files.base import ImageFiles
from gan.data.files.folder import FolderFiles
from gan.data.files.tar_archive import TarFiles
from gan.data.files.zip_archive import ZipFiles
from gan.data.prepared import printable, user_errors
from gan.runtime.errors import UserError

# The first bytes of archives. Those of .tar are a file name, and its format begins later.
MAGIC = {b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"\x1f\x8b": "gz", b"\xfd7zXZ\x00": "xz", b"BZh": "bz2"}
TAR_MAGIC = slice(257, 262), b"ustar"


def open_files(path: Path, key: str) -> ImageFiles:
    """Return the images in a folder or an archive, which is recognized by its contents.

    Raises UserError, which begins with the config key of the path, if there are no images or if it cannot be read.
    """
    with user_errors(path, key):
        if not path.is_file():
            return FolderFiles(path, key)
        with path.open("rb") as file:
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
