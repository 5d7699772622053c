"""Helpers that draw pictures and read them."""

import numpy as np
from PIL import Image

from gan.sample.__main__ import main


def pixels(path):
    """Return an image file as an array."""
    with Image.open(path) as image:
        return np.asarray(image)


def sample(folder, *arguments):
    """Run the command, which must succeed."""
    assert main([str(folder), "--device", "cpu", *map(str, arguments)]) == 0
