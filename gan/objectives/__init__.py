"""What the networks are trained on: losses, penalties, augmentation."""
