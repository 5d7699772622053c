"""Training of GANs: config -> build -> loop -> metrics -> run folder."""
