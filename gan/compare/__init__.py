"""Compare normalizers, or any other choices of the config: a grid of runs and a report of it."""
