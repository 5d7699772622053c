"""Exact rewrites and fast forms of convolutions."""
