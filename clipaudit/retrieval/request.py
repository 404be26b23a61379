"""Requests of the command line and of the server, turned into questions for the indexes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from clipaudit.arrays import Floats
from clipaudit.errors import UsageError
from clipaudit.retrieval.card import EMBEDDING, check_columns
from clipaudit.retrieval.queries import QueryEncoder
from clipaudit.retrieval.retriever import End, Question, Retriever
from clipaudit.retrieval.sheet import SheetPanel, SheetQuery
from clipaudit.run.reader import Run
from clipaudit.run.row import Row
from clipaudit.run.thumbnails import MAX_SIDE, NoPicture, Thumbnails, shrink

_MAX_HEADS: Final = 64
_MAX_PIXELS: Final = 89_478_485


@dataclass(frozen=True, kw_only=True)
class Request:
    """One query: an image, a sample or a text, by which heads, and which images may answer."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """Index name -> weight; empty for the whole embedding, or the heads of `role`."""
    role: str | None = None
    image: bytes | None = field(default=None, repr=False)
    image_name: str | None = None
    key: tuple[int, str] | None = None
    """(shard id, key)."""
    text: str | None = None
    end: End = "max"
    k: int = 20
    where: tuple[str, ...] = ()
    """Filters that an image must all pass."""
    unique: bool = False
    compare: bool = False
    """Also ask the whole embedding."""

    def __post_init__(self) -> None:
        given = [name for name in ("image", "key", "text") if getattr(self, name) is not None]
        if len(given) != 1:
            raise UsageError(
                "give one of --image, --key and --text" + (f", not {' and '.join(given)}" if given else "")
            )
        if self.role is not None and self.weights:
            raise UsageError("give --head or --role, not both")
        if len(self.weights) > _MAX_HEADS:
            raise UsageError(f"{len(self.weights)} heads are more than the {_MAX_HEADS} that one query may have")

    def words(self, run: Run) -> str:
        """The query in words."""
        if self.text is not None:
            return f"{'least' if self.end == 'min' else 'most'} along \u201c{self.text}\u201d"
        like = "unlike" if self.end == "min" else "like"
        if self.key is not None:
            return f"{like} {self.key[0]}/{self.key[1]}"
        return f"{like} {self.image_name or 'the image'}"

    def sheet_query(self, retriever: Retriever, thumbnails: Thumbnails) -> SheetQuery:
        """The query for the top of a contact sheet; the errors of `row`."""
        words, row, picture = self.words(retriever.run), None, None
        try:
            if self.key is not None:
                row = self.row(retriever)
                picture = thumbnails(row)
            elif self.image is not None:
                picture = shrink(self.image, min(MAX_SIDE, 224), _MAX_PIXELS)
        except NoPicture:
            picture = None
        where = self.where[0] if len(self.where) == 1 else " and ".join(f"({condition})" for condition in self.where)
        return SheetQuery(words=words, picture=picture, row=row, image=self.image, where=where or None)

    def row(self, retriever: Retriever) -> Row:
        """The sample that is the query; UsageError when there is no such sample."""
        assert self.key is not None
        index = retriever.index(self.names(retriever)[0])
        return index.rows([index.row_map.number(*self.key)])[0]

    def names(self, retriever: Retriever) -> list[str]:
        """Names of the indexes that are asked; UsageError when no head has the role."""
        if self.role is not None:
            return retriever.heads_of_role(self.role)
        return list(self.weights) or [EMBEDDING]


def answers(retriever: Retriever, encoder: QueryEncoder, request: Request) -> list[SheetPanel]:
    """The answer by the heads, and with `compare` the answer by the whole embedding.

    UsageError for what cannot be asked, and the errors of `Retriever.answer` and of `QueryEncoder`.
    """
    names = request.names(retriever)
    check_columns(retriever.run, names)
    both = request.compare and names != [EMBEDDING]
    for name in (*names, *[EMBEDDING] * both):
        retriever.index(name)  # a missing index is an error before a model is loaded
    vectors = retriever.query_vectors(
        [*names, *[EMBEDDING] * both],
        encoder,
        key=request.key,
        text=request.text,
        image=request.image,
        image_name=request.image_name,
    )
    panels = [_panel(retriever, request, vectors, names)]
    if both:
        panels.append(_panel(retriever, request, vectors, [EMBEDDING]))
    return panels


def _panel(retriever: Retriever, request: Request, vectors: Mapping[str, Floats], names: Sequence[str]) -> SheetPanel:
    question = Question(
        queries={name: vectors[name] for name in names},
        text=request.text is not None,
        weights=request.weights,
        k=request.k,
        end=request.end,
        where=request.where,
        unique=request.unique,
        leave_out=request.key,
    )
    answer = retriever.answer(question)
    if list(names) == [EMBEDDING]:
        title, about = "by the whole embedding", "everything that the model sees"
    else:
        heads = ", ".join(name if (w := request.weights.get(name, 1.0)) == 1 else f"{w:g} x {name}" for name in names)
        title = f"by {heads}" if request.role is None else f"by the role {request.role}"
        about = heads if request.role is not None else f"{'these heads' if len(names) > 1 else 'this head'} alone"
    about = f"{about}, {retriever.index(names[0]).card.metric} scores"
    return SheetPanel(title=title, about=about, answer=answer, question=question)


def parse_weights(texts: Sequence[str]) -> dict[str, float]:
    """`L11H05=2`, `L10H01` -> weights by name; UsageError when one is given twice or is no number."""
    weights: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.partition("=")
        try:
            weight = float(number) if equals else 1.0
        except ValueError:
            weight = math.nan
        if not name or not math.isfinite(weight) or weight == 0:
            raise UsageError(f"--head {text!r}: write L11H05, or L11H05=2 for twice the weight")
        if name in weights:
            raise UsageError(f"--head {name} is given twice")
        weights[name] = weight
    return weights
