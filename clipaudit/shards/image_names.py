"""How files of images are called; imports nothing, for processes that must start quickly."""

from __future__ import annotations

from typing import Final

USUAL_EXTENSIONS: Final = frozenset({"jpg", "jpeg", "png", "webp"})
IMAGE_EXTENSIONS: Final = USUAL_EXTENSIONS | {"jpe", "jfif", "gif", "bmp", "tif", "tiff", "avif"}
"""Of the files that are read as a sample's image; where it has several, a usual one."""
