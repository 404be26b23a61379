"""Heads in words, and models without them: texts, TextSpan, roles, ablation, studies."""
