"""Columns as a person reads them: a declared one as its owner wrote it, an image property by a plain name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PREFIX: Final = "image."
"""Of the columns that are measured on pixels and files."""
_DECLARED: Final = ("attributes.", "labels.")
_NOUNS: Final[Mapping[str, str]] = {
    "aspect": "picture shape",
    "megapixels": "picture size in megapixels",
    "kilobytes": "file size",
    "jpeg_quality": "JPEG quality",
}
"""What a property is called that is called otherwise in the table."""


def is_measured(column: str) -> bool:
    """Whether a column is an image property, by its name: whoever declares it, it follows from the pixels."""
    return column.startswith(PREFIX)


def column_in_words(column: str) -> str:
    """`place` for `attributes.place`, `dog` for the label `labels.dog`, `picture brightness` for `image.brightness`."""
    if is_measured(column):
        name = column.removeprefix(PREFIX)
        return _NOUNS.get(name, f"picture {name}")
    return next((column.removeprefix(part) for part in _DECLARED if column.startswith(part)), column)
