"""Compare normalizations or any other choices of a config: train a grid of runs and write a report."""
