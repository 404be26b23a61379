"""Whatever gives each image a class, and how far it hangs on a cue (S7 to S10)."""
