"""Families of networks, one file each. A new file that registers its networks is found by itself."""

import sys

from models.registry import import_submodules

import_submodules(sys.modules[__name__])
