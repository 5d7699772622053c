"""Training of GANs: config -> build -> loop -> metrics -> run folder."""

__version__ = "0.2.0"
