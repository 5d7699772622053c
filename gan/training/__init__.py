"""The training of a GAN: build, experiment, step, loop."""
