"""Evaluation of networks: image quality metrics of generators and Lipschitz estimates of any network."""
