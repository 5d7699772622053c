"""Where the numbers of a run are shown, one file each. A new file that registers itself is found by itself."""

import sys

from gan.run.writers.base import WRITERS, Writer
from models.registry import import_submodules

__all__ = ["WRITERS", "Writer"]

import_submodules(sys.modules[__name__])
