"""Feature extractors: images -> features and, where they classify, logits."""
