"""Which images show best what a cue does to an answerer: those that sentences, bars and pictures are about."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from clipaudit.cues.result.reliance_parts import CellAccuracy

_ENOUGH = 30
"""Independent images from which on a cell goes before smaller ones."""


@dataclass(frozen=True, kw_only=True)
class TellingCells:
    """One cell of each kind; None where there is none."""

    aligned: CellAccuracy | None
    """The largest of the classes that have the cue, with it."""
    same: CellAccuracy | None
    """The worst of those classes without the cue."""
    other: CellAccuracy | None
    """The worst of the other classes with it."""

    @property
    def all(self) -> tuple[CellAccuracy, ...]:
        """Those that there are, in this order."""
        return tuple(cell for cell in (self.aligned, self.same, self.other) if cell is not None)


def telling_cells(cells: Sequence[CellAccuracy], having: Collection[str]) -> TellingCells:
    """The cells of an answerer that show a cue best; having: the classes that have the cue."""
    known = [cell for cell in cells if cell.accuracy.value is not None]
    against = [cell for cell in known if cell.conflicting]
    own = (cell for cell in known if cell.class_name in having and not cell.conflicting)
    return TellingCells(
        aligned=max(own, key=lambda cell: cell.accuracy.n, default=None),
        same=_worst(cell for cell in against if cell.class_name in having),
        other=_worst(cell for cell in against if cell.class_name not in having),
    )


def _worst(cells: Iterable[CellAccuracy]) -> CellAccuracy | None:
    """The lowest accuracy among cells of enough images, if there are any."""
    candidates = list(cells)
    large = [cell for cell in candidates if cell.accuracy.n >= _ENOUGH]
    return min(large or candidates, key=lambda cell: cell.accuracy.value or 0.0, default=None)
