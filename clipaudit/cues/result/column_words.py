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
_NO_NAMES: Final = {"yes", "no", "true", "false", "none", "with", "without", "present", "absent", "other", "unknown"}
"""Values that say nothing without their column."""
_LABEL: Final = "labels."


def is_measured(column: str) -> bool:
    """Whether a column is an image property, by its name: whoever declares it, it follows from the pixels."""
    return column.startswith(PREFIX)


def column_in_words(column: str) -> str:
    """`place` for `attributes.place`, `dog` for the label `labels.dog`, `picture brightness` for `image.brightness`."""
    if is_measured(column):
        name = column.removeprefix(PREFIX)
        return _NOUNS.get(name, f"picture {name}")
    return next((column.removeprefix(part) for part in _DECLARED if column.startswith(part)), column)


def value_word(column: str | None, value: str) -> str:
    """A column's value in as few words as say something: `water`, but `hat yes`, `light 0.1 to 0.25`, `place (empty)`;
    the value alone where there is no column (None), or the column is another label."""
    if column is None or column.startswith(_LABEL):
        return value
    if not value.strip():
        return f"{column_in_words(column)} (empty)"
    speaks = len(value) > 1 and any(map(str.isalpha, value)) and value.lower() not in _NO_NAMES
    return value if speaks and not _is_range(value) else f"{column_in_words(column)} {value}"


def core_word(column: str, value: str) -> str:
    """What `--core` takes for a value: the value where it says something by itself, else `hat=yes`."""
    return value if value_word(column, value) == value else f"{column_in_words(column)}={value}"


def _is_range(value: str) -> bool:
    """Whether a value is the name of a bin of numbers, `-1.5 to 2e+06`."""
    try:
        return len([float(end) for end in value.split(" to ")]) <= 2
    except ValueError:
        return False
