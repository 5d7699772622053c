"""Metrics: pure functions of features (quality) and of networks (Lipschitz). Imports neither `gan` nor `models`."""
