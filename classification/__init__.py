"""Training and evaluation of image classifiers with the normalizations and tools of this project."""
