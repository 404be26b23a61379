"""The result of a spurious-cue audit: plain data that pages, JSON files and notebooks read."""
