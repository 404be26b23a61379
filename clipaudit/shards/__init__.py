"""WebDataset shards, from their patterns to decoded samples."""
