"""Metrics: pure functions of image features (quality) and of networks (Lipschitz constants)."""
