"""Small pictures on a page of heads: all of one head's in one JPEG, of bounded size, shown piece by piece.

A JPEG of its own for each picture would repeat 600 bytes of tables, and an image that stands at the end of several
texts would be on the page several times.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Final

from markupsafe import Markup
from PIL import Image, ImageOps

from clipaudit.heads.extremes import Ends, Extreme
from clipaudit.run.row import label_text
from clipaudit.run.thumbnails import NoPicture, Thumbnail, Thumbnails

SIDE: Final = 64
"""Pixels of a picture's side: four blocks of a JPEG, so that neighbours do not bleed into each other."""
KEEP: Final = 3
"""Pictures at each end of a direction."""
_COLUMNS: Final = 8
_MOST_BYTES: Final = 88_000
"""Of one head's JPEG: as base64 those of 24 heads are 2.8 MB."""
_QUALITIES: Final = (85, 75, 65, 55, 45, 35, 25, 15)

STYLE: Final = Markup(
    ".picture { display: block; width: 100%; aspect-ratio: 1; border-radius: 4px; print-color-adjust: exact; }"
    " .picture.none { border: 1px dashed currentColor; opacity: .5; }"
    " .ends { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .3rem .6rem; }"
    " .end { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 3px; align-items: start; }"
)
"""The rules that `HeadPictures.strip` needs; the page's policy must allow `img-src data:`."""


class HeadPictures:
    """The pictures of one head.

    thumbnails: of the run, larger than SIDE so that they can be cut square.
    ends: of all directions that have a strip. The pictures are read at once.
    missing: reasons why pictures cannot be shown, with how many; shared by the heads of a page.
    """

    def __init__(self, thumbnails: Thumbnails, ends: Sequence[Ends], missing: dict[str, int]) -> None:
        self._missing = missing
        self._places: dict[tuple[int, int], int | str] = {}
        """By shard and index the picture's place on the sheet, or why there is none."""
        self._pictures: list[Thumbnail] = []
        for row in (extreme.row for pair in ends for extreme in (*pair.high, *pair.low)):
            if (row.shard_id, row.index) in self._places:
                continue
            try:
                self._pictures.append(thumbnails(row))
                self._places[row.shard_id, row.index] = len(self._pictures) - 1
            except NoPicture as error:
                self._places[row.shard_id, row.index] = str(error)

    def rule(self, name: str) -> Markup:
        """The CSS rule that gives the strips inside the element of id `name` their pictures; empty without any."""
        if not self._pictures:
            return Markup("")
        data = base64.b64encode(self._encoded()).decode()
        return Markup("#{} .picture:not(.none) {{ background-image: url(data:image/jpeg;base64,{}); }}\n").format(
            name, data
        )

    def strip(self, ends: Ends) -> Markup:
        """Both ends of a direction, most on the left, as HTML in the rules of STYLE."""
        sides = Markup("").join(
            Markup('<div class="end" role="group" aria-label="{}">{}</div>').format(
                name, Markup("").join(map(self._picture, extremes))
            )
            for name, extremes in (("most", ends.high), ("least", ends.low))
        )
        return Markup('<div class="ends">{}</div>').format(sides)

    def _picture(self, extreme: Extreme) -> Markup:
        row = extreme.row
        label = "" if row.label is None else f", label {label_text(row.label)}"
        caption = f"{row.key}{label}: {extreme.value:+.1f} standard deviations"
        place = self._places[row.shard_id, row.index]
        if isinstance(place, str):
            self._missing[place] = self._missing.get(place, 0) + 1
            return Markup('<span class="picture none" role="img" aria-label="{}" title="{} ({})"></span>').format(
                caption, caption, place
            )
        return Markup('<span class="picture" role="img" aria-label="{}" title="{}" style="{}"></span>').format(
            caption, caption, self._cut(place)
        )

    def _cut(self, place: int) -> str:
        """Size and position that show one picture of the sheet, in percent, for elements of any size."""
        columns, rows = self._grid
        down, across = divmod(place, columns)
        x, y = 100 * across / max(columns - 1, 1), 100 * down / max(rows - 1, 1)
        return f"background-size: {100 * columns}% {100 * rows}%; background-position: {x:.4g}% {y:.4g}%"

    @property
    def _grid(self) -> tuple[int, int]:
        """Columns and rows of the sheet."""
        return min(_COLUMNS, len(self._pictures)), -(-len(self._pictures) // _COLUMNS)

    def _encoded(self) -> bytes:
        """The sheet as a JPEG, in the best quality that keeps it small."""
        columns, rows = self._grid
        sheet = Image.new("RGB", (SIDE * columns, SIDE * rows), "white")
        for place, picture in enumerate(self._pictures):
            with Image.open(io.BytesIO(picture.data)) as image:
                square = ImageOps.fit(image, (SIDE, SIDE))
            down, across = divmod(place, columns)
            sheet.paste(square, (SIDE * across, SIDE * down))
        data = b""
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            sheet.save(buffer, "JPEG", quality=quality, optimize=True)
            data = buffer.getvalue()
            if len(data) <= _MOST_BYTES:
                break
        return data
