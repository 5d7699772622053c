"""Training objectives: losses, regularizers and differentiable augmentation."""
