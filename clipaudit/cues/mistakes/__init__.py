"""Where an answerer errs: error slices in words (S15), and labels that it contradicts (S16)."""
