"""One column of a run as sorted values and a code for each image."""

from __future__ import annotations

from dataclasses import dataclass

from clipaudit.arrays import Bools, Ints


@dataclass(frozen=True, eq=False, kw_only=True)
class Attribute:
    """A column that says something of each of n images, such as where it was taken."""

    column: str
    """Full name, such as `attributes.place`."""
    values: tuple[str, ...]
    """The V values that occur, sorted."""
    codes: Ints
    """(n,) int64, place in `values`; -1 where an image has no value."""

    def take(self, rows: Ints | Bools) -> Attribute:
        """The same of some images, by their places (m,) or a mask (n,)."""
        return Attribute(column=self.column, values=self.values, codes=self.codes[rows])
