"""Audit image data sets with the exact per-head decomposition of a CLIP image encoder."""

__version__ = "0.1.0"
