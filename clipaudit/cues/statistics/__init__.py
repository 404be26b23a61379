"""The statistics of a spurious-cue audit, each on plain arrays."""
