"""Training and evaluation of image classifiers with the normalizations and tools of this project."""

import gan  # noqa: F401 (answers early if this is the start of `python -m classification.evaluate`)
