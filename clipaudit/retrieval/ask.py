"""What a user asks, in the words of the command line and of the server, to questions for the indexes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from clipaudit.errors import UsageError
from clipaudit.retrieval.card import EMBEDDING, check_columns
from clipaudit.retrieval.queries import Encoder, Floats, stored_coordinates
from clipaudit.retrieval.retriever import End, Question, Retriever
from clipaudit.retrieval.rowmap import Row
from clipaudit.retrieval.sheet import Asked, Panel
from clipaudit.retrieval.thumbnails import MAX_SIDE, NoPicture, Thumbnails, shrink
from clipaudit.run import Run

_MOST_HEADS: Final = 64
_MOST_PIXELS: Final = 89_478_485


@dataclass(frozen=True, kw_only=True)
class Asking:
    """One query: an image, a sample or a text, by which heads, and which images may answer."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """Index name -> weight; none for the whole embedding, or the heads of `role`."""
    role: str | None = None
    image: bytes | None = field(default=None, repr=False)
    image_name: str | None = None
    key: tuple[int, str] | None = None
    """(shard id, key)."""
    text: str | None = None
    end: End = "max"
    k: int = 20
    where: str | None = None
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
        if len(self.weights) > _MOST_HEADS:
            raise UsageError(f"{len(self.weights)} heads are more than the {_MOST_HEADS} that one query may have")

    def words(self, run: Run) -> str:
        """The query in words."""
        if self.text is not None:
            return f"{'least' if self.end == 'min' else 'most'} along \u201c{self.text}\u201d"
        like = "unlike" if self.end == "min" else "like"
        if self.key is not None:
            return f"{like} {self.key[0]}/{self.key[1]}"
        return f"{like} {self.image_name or 'the image'}"

    def shown(self, retriever: Retriever, thumbnails: Thumbnails) -> Asked:
        """The query for the head of a contact sheet."""
        words, row, picture = self.words(retriever.run), None, None
        try:
            if self.key is not None:
                row = self.row(retriever)
                picture = thumbnails(row)
            elif self.image is not None:
                picture = shrink(self.image, min(MAX_SIDE, 224), _MOST_PIXELS)
        except NoPicture:
            picture = None
        return Asked(words=words, picture=picture, row=row, image=self.image, where=self.where)

    def row(self, retriever: Retriever) -> Row:
        """The sample that is the query."""
        assert self.key is not None
        index = retriever.index(self.names(retriever)[0])
        return index.rows([index.row_map.number(*self.key)])[0]

    def names(self, retriever: Retriever) -> list[str]:
        """The indexes that are asked."""
        if self.role is not None:
            return retriever.heads_of_role(self.role)
        return list(self.weights) or [EMBEDDING]


def answers(retriever: Retriever, encoder: Encoder, asking: Asking) -> list[Panel]:
    """The answer by the heads, and with `compare` the one by the whole embedding."""
    names = asking.names(retriever)
    check_columns(retriever.run, names)
    both = asking.compare and names != [EMBEDDING]
    for name in (*names, *[EMBEDDING] * both):
        retriever.index(name)  # what is not indexed is heard of before a model is loaded
    vectors = _vectors(retriever, encoder, asking, [*names, *[EMBEDDING] * both])
    panels = [_panel(retriever, asking, vectors, names)]
    if both:
        panels.append(_panel(retriever, asking, vectors, [EMBEDDING]))
    return panels


def _vectors(retriever: Retriever, encoder: Encoder, asking: Asking, names: Sequence[str]) -> dict[str, Floats]:
    """The query's vector for each index."""
    if asking.text is not None:
        text = encoder.text(asking.text)
        return {name: retriever.index(name).fold(text[None])[0] for name in names}
    if asking.key is not None:
        return stored_coordinates(retriever.run, *asking.key, names)
    assert asking.image is not None
    return encoder.image(asking.image, names, asking.image_name or "the query image")


def _panel(retriever: Retriever, asking: Asking, vectors: Mapping[str, Floats], names: Sequence[str]) -> Panel:
    question = Question(
        queries={name: vectors[name] for name in names},
        text=asking.text is not None,
        weights=asking.weights,
        k=asking.k,
        end=asking.end,
        where=asking.where,
        unique=asking.unique,
        leave_out=asking.key,
    )
    answer = retriever.answer(question)
    if list(names) == [EMBEDDING]:
        title, about = "by the whole embedding", "everything that the model sees"
    else:
        shown = ", ".join(name if (w := asking.weights.get(name, 1.0)) == 1 else f"{w:g} x {name}" for name in names)
        title = f"by {shown}" if asking.role is None else f"by the role {asking.role}"
        about = shown if asking.role is not None else f"{'these heads' if len(names) > 1 else 'this head'} alone"
    about = f"{about}, {retriever.index(names[0]).card.metric} scores"
    return Panel(title=title, about=about, answer=answer, question=question)


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
