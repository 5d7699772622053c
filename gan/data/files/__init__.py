"""Where images are read from: a folder, or an archive that is read without unpacking it."""

from gan.data.files.base import ImageFiles
from gan.data.files.open import find_archive, open_files

__all__ = ["ImageFiles", "find_archive", "open_files"]
