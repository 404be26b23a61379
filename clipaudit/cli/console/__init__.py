"""Results and progress on the terminal, by command."""
