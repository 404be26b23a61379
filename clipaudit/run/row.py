"""What is known of one stored image beside its vectors."""

from __future__ import annotations

from dataclasses import dataclass, field

from clipaudit.schema import Label


@dataclass(frozen=True, kw_only=True)
class Row:
    """One indexed image."""

    shard_id: int
    index: int
    """Position in its shard."""
    key: str
    label: Label = None
    attributes: dict[str, str | None] = field(default_factory=dict)
    width: int | None = None
    height: int | None = None
    phash: int | None = None
    offset: int | None = None
    """Of the image's bytes in the tar."""
    nbytes: int | None = None
