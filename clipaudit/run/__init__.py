"""The table on disk: a run's files, written, read, kept and exported."""
