"""Feature extractors: modules that map images to features and, if they classify, logits."""
