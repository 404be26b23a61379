"""Heat maps and class scores against masks and labels: the papers' protocols."""
