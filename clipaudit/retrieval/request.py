"""Requests of the command line and of the server, turned into questions for the indexes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from clipaudit.arrays import Floats
from clipaudit.errors import UsageError
from clipaudit.retrieval.card import EMBEDDING
from clipaudit.retrieval.parts import QueryPart, check_parts, check_weight, in_words
from clipaudit.retrieval.queries import QueryEncoder
from clipaudit.retrieval.retriever import End, Question, Retriever
from clipaudit.retrieval.sheet import SheetPanel, SheetQuery
from clipaudit.run.row import Row
from clipaudit.run.thumbnails import MAX_SIDE, NoPicture, Thumbnails, shrink

_MAX_HEADS: Final = 64
_MAX_PIXELS: Final = 89_478_485


@dataclass(frozen=True, kw_only=True)
class Request:
    """One query: images, samples and texts, by which heads, and which images may answer."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """Index name -> weight; empty for the whole embedding, or the heads of `role`."""
    role: str | None = None
    parts: tuple[QueryPart, ...] = ()
    """Texts, samples and images, whose scores are added up."""
    end: End = "max"
    k: int | None = None
    """How many images; None for 20, or for all where there are fewer."""
    where: tuple[str, ...] = ()
    """Filters that an image must all pass."""
    unique: bool = False
    compare: bool = False
    """Also ask the whole embedding."""

    def __post_init__(self) -> None:
        check_parts(self.parts)
        if self.role is not None and self.weights:
            raise UsageError("give --head or --role, not both")
        if len(self.weights) > _MAX_HEADS:
            raise UsageError(f"{len(self.weights)} heads are more than the {_MAX_HEADS} that one query may have")

    def words(self) -> str:
        """The query in words."""
        if all(part.text is not None for part in self.parts):
            return f"{'least' if self.end == 'min' else 'most'} along {in_words(self.parts)}"
        return f"{'unlike' if self.end == 'min' else 'like'} {in_words(self.parts)}"

    def sheet_query(self, retriever: Retriever, thumbnails: Thumbnails) -> SheetQuery:
        """The query for the top of a contact sheet, with its picture where it is one sample or image.

        UsageError when there is no such sample.
        """
        row, picture = None, None
        image = self.parts[0].image if len(self.parts) == 1 else None
        try:
            if len(self.parts) == 1 and self.parts[0].key is not None:
                row = self._row(retriever, *self.parts[0].key)
                picture = thumbnails(row)
            elif image is not None:
                picture = shrink(image, min(MAX_SIDE, 224), _MAX_PIXELS)
        except NoPicture:
            picture = None
        where = self.where[0] if len(self.where) == 1 else " and ".join(f"({condition})" for condition in self.where)
        return SheetQuery(words=self.words(), picture=picture, row=row, image=image, where=where or None)

    def _row(self, retriever: Retriever, shard: int, key: str) -> Row:
        """The sample that is the query; UsageError when there is no such sample."""
        index = retriever.index(self.names(retriever)[0])
        return index.rows([index.row_map.number(shard, key)])[0]

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
    both = request.compare and names != [EMBEDDING]
    asked = [*names, *[EMBEDDING] * both]
    retriever.check(asked, request.k, request.where, request.weights)
    vectors = retriever.query_vectors(asked, encoder, request.parts)
    panels = [_panel(retriever, request, vectors, names)]
    if both:
        panels.append(_panel(retriever, request, vectors, [EMBEDDING]))
    return panels


def _panel(retriever: Retriever, request: Request, vectors: Mapping[str, Floats], names: Sequence[str]) -> SheetPanel:
    question = Question(
        queries={name: vectors[name] for name in names},
        text=tuple(part.text is not None for part in request.parts),
        part_weights=tuple(part.weight for part in request.parts),
        weights=request.weights,
        k=request.k,
        end=request.end,
        where=request.where,
        unique=request.unique,
        leave_out=tuple(part.key for part in request.parts if part.key is not None),
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
        check_weight(f"--head {name}", weight)
        if name in weights:
            raise UsageError(f"--head {name} is given twice")
        weights[name] = weight
    return weights
