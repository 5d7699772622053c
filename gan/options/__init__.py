"""Strict, typed YAML configs. This package knows dataclasses and registries, but nothing about GANs."""
