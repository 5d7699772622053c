"""Training of a GAN: `build` makes the experiment, `loop` runs it, `step` is one update of both networks."""
