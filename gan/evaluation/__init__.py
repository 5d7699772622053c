"""Metrics and Lipschitz numbers of networks."""
