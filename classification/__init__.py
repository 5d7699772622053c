"""Training and attacking classifiers of images with the normalizations, data and tools of the GANs beside them."""
