"""How a source is to be understood, as the command line says it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What a user says of a source; everything has a default that is found from the source."""

    images: str | None = None
    """Directory that the paths of a table or of a COCO json begin in; None to find it."""
    path: str | None = None
    """Column with the images' paths; None to find it."""
    label: str | None = None
    """Column with the class; None to find it."""
    caption: str | None = None
    """Column that becomes a caption; None for no caption."""
    split: str | None = None
    """The only split that is packed; None for all."""
    encoding: str = "utf-8-sig"
    """Of a text table; the default reads UTF-8 with and without a byte order mark."""
