"""One column's values as codes."""

from __future__ import annotations

from dataclasses import dataclass

from clipaudit.arrays import Ints


@dataclass(frozen=True, eq=False, kw_only=True)
class Attribute:
    """One column's values."""

    column: str
    values: tuple[str, ...]
    """Sorted."""
    codes: Ints
    """(n,) place in `values`, -1 where an image has none."""
