"""Findings: one cue with its strength, its effect, its evidence and its verdict."""
