"""Strict, typed YAML. Knows dataclasses, not GANs."""
