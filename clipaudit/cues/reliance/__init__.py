"""Whether an answerer hangs on a cue: statistics on plain arrays (S9, S10)."""
