"""What a model would learn from a run's training images, rehearsed on stored embeddings (S10r, S14)."""
