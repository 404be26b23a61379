"""Heat maps for contact sheets: what each patch of an image adds to its score in the indexes that are asked."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from clipaudit.arrays import Floats
from clipaudit.errors import UsageError
from clipaudit.localize.run_maps import RunMaps
from clipaudit.retrieval.card import EMBEDDING
from clipaudit.retrieval.retriever import Question, Retriever
from clipaudit.run.row import ImageId
from clipaudit.run.thumbnails import Thumbnail, as_jpeg


class SheetMaps:
    """Draws what each patch of an image adds to its score, with the run's own model, which is loaded at once.

    Raises UsageError when that model cannot be loaded or decomposed here, or has other weights than the run's.
    """

    def __init__(self, retriever: Retriever, *, side: int, device: str = "auto") -> None:
        """`side`: pixels of a picture's longer side."""
        self._retriever = retriever
        try:
            self._maps = RunMaps(retriever.run, side=side, device=device)
        except UsageError as error:
            raise UsageError(f"--maps needs the run's own model: {error}") from error

    def __call__(self, question: Question, files: Mapping[ImageId, bytes]) -> dict[ImageId, Thumbnail]:
        """Pictures with their maps over them, all on one scale, of the image files that can be decoded."""
        read = {
            place: picture
            for place, data in files.items()
            if (picture := self._maps.read(data, f"{place[0]}/{place[1]}")) is not None
        }
        drawn = self._maps(list(read.values()), *along(self._retriever, question))
        return {place: as_jpeg(Image.fromarray(pixels)) for place, pixels in zip(read, drawn, strict=True)}


def along(retriever: Retriever, question: Question) -> tuple[list[str] | None, Floats]:
    """The heads that are asked (None: all of the model's), and the direction (heads, D) that each scores images by.

    The products of heads' contributions with their directions sum to the score of `centred` and `raw` but for a
    constant; `cosine` also divides each head's product by the length of the row. For the lowest end directions are
    negated, so that what is large always moves an image up the list. UsageError for heads and the whole embedding in
    one sum.
    """
    basis, directions = retriever.run.basis(), []
    sign = -1.0 if question.end == "min" else 1.0
    for name in question.queries:
        vector = question.combined(name, retriever.index(name).space)
        vector = sign * question.weights.get(name, 1.0) * vector
        directions.append(vector if name == EMBEDDING else vector @ basis.Q(name))
    heads = list(question.queries)
    if EMBEDDING in heads and len(heads) > 1:
        raise UsageError("--maps cannot draw heads and the whole embedding as one sum: ask by one or the other")
    return (None if heads == [EMBEDDING] else heads), np.stack(directions)
