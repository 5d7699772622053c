"""Where images are read from: a folder, or an archive that is read without unpacking it."""

from gan.data.files.base import ImageFiles
from gan.data.files.open import open_files

__all__ = ["ImageFiles", "open_files"]
