"""The base class of folders and archives of images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from gan.data.decoding import SUFFIXES
from gan.runtime.errors import UserError

LABELS_FILE = "dataset.json"  # the labels of the images in its folder, see `gan.data.datasets.labels_file`
MAX_LABELS_BYTES = 2**28  # of a file of labels; 1.3 million images need 50 MB


class ImageFiles(ABC):
    """The images in a folder or an archive.

    They are found by their suffixes. Names that begin with a dot are ignored.

    Attributes:
        path: the folder or archive.
        key: the config key of the path, with which error messages begin.
        names: paths of the images, relative to the folder or archive and with '/' as the separator. They are sorted
            component by component. There is at least one.
    """

    def __init__(self, path: Path, key: str, names: Iterable[str]):
        self.path, self.key = path, key
        self.names = sorted(names, key=split_path)
        if not self.names:
            raise UserError(f"{key}: no images in '{path}' (suffixes: {', '.join(SUFFIXES)})")

    def get_reading_order(self, names: Sequence[str]) -> Sequence[int] | None:
        """Return the indices of the images in the order in which they are read fastest; None if it does not matter."""
        return None

    @abstractmethod
    def read_images(self, names: Iterable[str]) -> Iterator[Callable[[], bytes]]:
        """Yield for each image a function that returns the contents of its file.

        Any thread may call the functions, also after the iterator is exhausted. They raise CorruptImageError if the
        file is damaged or too large. They and the iterator raise UserError, and OSError, if nothing more can be read.
        """

    @abstractmethod
    def read_labels(self, folder: str) -> bytes | None:
        """Return the contents of `dataset.json` in `folder` ('' or 'train/'), or None if there is none."""

    @abstractmethod
    def find_paths(self, names: Sequence[str]) -> Iterator[str]:
        """Yield the real path of each image, after all symbolic links. Equal images have equal paths."""

    def find_wrapper(self, splits: Collection[str]) -> str:
        """Return the folder ('' or 'name/') that is to be read instead of the whole folder or archive.

        `splits` are names in lower case that are never part of it.
        """
        return ""

    @abstractmethod
    def get_cache_key(self, folder: str, names: Sequence[str]) -> tuple[Sequence[str], tuple[str, ...]]:
        """Return what the pixels of the images `names` in `folder` depend on: files, and other values.

        The paths of the files are absolute or relative to `folder`.
        """


def is_image(name: str) -> bool:
    """Return whether the name of a file is that of an image."""
    return name.lower().endswith(SUFFIXES)


def split_path(name: str) -> list[str]:
    """Return the components of a path."""
    return name.split("/")
