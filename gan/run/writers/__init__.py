"""Writers of logs, one file each. A new module here is imported automatically and registers itself."""

import sys

from gan.run.writers.base import WRITERS, Writer
from models.registry import import_submodules

__all__ = ["WRITERS", "Writer"]

import_submodules(sys.modules[__name__])
