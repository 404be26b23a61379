"""The command line: options to calls, results to the terminal."""
