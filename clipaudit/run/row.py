"""What is known of one stored image beside its vectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from clipaudit.schema import SampleLabel, labels_in

ImageId: TypeAlias = tuple[int, int]
"""Shard id and position in the shard: which image of a run."""


def label_text(label: SampleLabel) -> str:
    """A label as it is shown; of several labels each, with commas; `none` for an empty list, and empty for no label."""
    return "none" if label == () else ", ".join(map(str, labels_in(label)))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One indexed image."""

    shard_id: int
    index: int
    """Position in its shard."""
    key: str
    label: SampleLabel = None
    class_name: str | None = None
    """What the label is called, where `classnames.txt` beside the shards says it; several with commas between them."""
    caption: str | None = None
    attributes: dict[str, str | None] = field(default_factory=dict)
    width: int | None = None
    """Pixels of the image as displayed."""
    height: int | None = None
    phash: int | None = None
    """64-bit perceptual hash, as a signed integer."""
    image: dict[str, float | None] | None = None
    """Image properties by name, of `schema.IMAGE_PROPERTIES`; None where they were not measured."""
    offset: int | None = None
    """First byte of the image's file in the tar; None when it is not stored."""
    nbytes: int | None = None
    """Bytes of that file."""
