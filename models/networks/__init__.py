"""Network families, one file each. The networks in a new file are registered without any other edit."""

import sys

from models.registry import import_submodules

import_submodules(sys.modules[__name__])
