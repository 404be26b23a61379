"""Answers to questions: by one head, several with weights, or a role; with filters, and copies left out."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal, TypeAlias

import numpy as np

from clipaudit.arrays import ArrayHolder, Bools, Float32s, Floats, Ints
from clipaudit.errors import IntegrityError, UsageError
from clipaudit.heads.description import stored_description
from clipaudit.retrieval.card import EMBEDDING, Space, check_columns, indexed
from clipaudit.retrieval.head_index import HeadIndex
from clipaudit.retrieval.parts import Paths, QueryPart, check_weight, part_vectors, parts_of
from clipaudit.retrieval.queries import QueryEncoder
from clipaudit.retrieval.rowmap import RowMap
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run, RunPlace, opened
from clipaudit.run.row import Row
from clipaudit.schema import Names, as_names

End: TypeAlias = Literal["max", "min"]

DEFAULT_K: Final = 20
COPY_BITS: Final = 6
"""Perceptual hashes (64 bits) that differ in at most so many are of copies."""
_FIRST_CANDIDATES, _MAX_CANDIDATES = 256, 1 << 16
"""Rows that each head names at first, and at most, when several heads are combined."""
_MASKS: Final = 8
_CANCELLED: Final = 1e-6


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Question(ArrayHolder):
    """A question to one index or to several."""

    queries: Mapping[str, Floats]
    """Index name -> (dim,) floats, the coordinates of an image or a folded text; or (P, dim) of several parts."""
    text: bool | tuple[bool, ...] = False
    """Whether the queries are texts; of several parts, for each."""
    part_weights: tuple[float, ...] = ()
    """Of each part's score in the sum; 1 for all where none are given."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Index name -> weight of its score in the sum; 1 for those not named."""
    k: int | None = None
    """How many images; None for DEFAULT_K, or for all where there are fewer."""
    end: End = "max"
    where: Names = ()
    """One filter, or several that a row must all pass: `place = water`; none for all rows."""
    unique: bool = False
    """Leave out images that are copies of better ones, or of the query."""
    leave_out: tuple[tuple[int, str], ...] = ()
    """(shard id, key) of samples that are the query themselves."""

    def combined(self, name: str, space: Space) -> Float32s:
        """(dim,) float32, what the rows of an index are multiplied with: its parts, prepared, in a weighted sum.

        Products are linear in the query, so the score of the sum is the weighted sum of the parts' scores. UsageError
        for numbers that are not finite, another shape, and parts that cancel out.
        """
        vectors = np.atleast_2d(self.queries[name])
        if vectors.ndim != 2 or vectors.shape[1] != len(space.mean):
            raise UsageError(f"a query of {name} has {len(space.mean)} numbers, not shape {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise UsageError(f"a query of {name} holds numbers that are not finite")
        texts = self.text if isinstance(self.text, tuple) else (self.text,) * len(vectors)
        weights = self.part_weights or (1.0,) * len(vectors)
        if not len(texts) == len(weights) == len(vectors):
            raise UsageError(f"a query of {len(vectors)} parts has {len(texts)} kinds and {len(weights)} weights")
        total = np.zeros(vectors.shape[1], np.float32)
        for vector, text, weight in zip(vectors, texts, weights, strict=True):
            total += np.float32(weight) * (space.texts if text else space.images)(vector[None])[0]
        if len(vectors) > 1 and not np.abs(total).max() > _CANCELLED * max(map(abs, weights)):
            raise UsageError("the parts of the query cancel out: nothing is left to search for")
        return total


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One image of an answer."""

    rank: int
    """From 1."""
    score: float
    row: Row
    parts: dict[str, float] = field(default_factory=dict)
    """Each head's weighted part of the score, where several were asked."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The images that answer a question, best first."""

    hits: tuple[Hit, ...]
    notes: tuple[str, ...] = ()
    """Remarks: an index older than the run, copies that were left out, a sum that may lack an image."""


class Retriever:
    """A run's indexes, opened when they are first asked; for any number of threads.

    >>> retriever = Retriever("demo-out/birds-run")
    >>> answer = retriever.search(key="0/birds-000007", heads="L05H00", k=5)
    >>> [hit.rank for hit in answer.hits]
    [1, 2, 3, 4, 5]
    """

    def __init__(self, run: RunPlace, *, indexes: str | None = None, stale: bool = False, verify: bool = True) -> None:
        """`stale` and `verify` as in `HeadIndex.open`; `indexes`: the directory of `clipaudit index --out`."""
        self.run: Run = opened(run)
        self.place = self.run.directory if indexes is None else RunDirectory(indexes)
        """The directory whose `indexes/` are asked."""
        self._stale, self._verify = stale, verify
        self._open: dict[str, HeadIndex] = {}
        self._lock = threading.Lock()
        self._mask = lru_cache(_MASKS)(self._new_mask)
        self._encoder = QueryEncoder(self.run)

    def index(self, name: str) -> HeadIndex:
        """An opened index, the same object at every call; the errors of `HeadIndex.open`."""
        with self._lock:
            if name not in self._open:
                rows: RowMap | None = next((index.row_map for index in self._open.values()), None)
                self._open[name] = HeadIndex.open(
                    self.run, name, stale=self._stale, verify=self._verify, rows=rows, place=self.place
                )
            return self._open[name]

    def available(self) -> tuple[str, ...]:
        """Names of the run's indexes."""
        return indexed(self.place)

    def search(
        self,
        *,
        key: Names | Mapping[str, float] = (),
        text: Names | Mapping[str, float] = (),
        image: Paths | Mapping[str, float] = (),
        minus: Names | Mapping[str, float] = (),
        heads: Names | Mapping[str, float] = EMBEDDING,
        role: str | None = None,
        k: int | None = None,
        end: End = "max",
        where: Names = (),
        unique: bool = False,
    ) -> Answer:
        """The k images most like samples or image files, or furthest along texts, in some respect.

        Args:
            key: a sample of the run, SHARD/KEY; several, whose scores add up; or a mapping of samples to weights.
            text: a text, several or with weights; the run's model encodes them.
            image: an image file, several or with weights; the run's model encodes them.
            minus: texts whose scores are subtracted, or a mapping of them to weights.
            heads: one head or several, whose scores add up, or a mapping of heads to weights; default: the embedding.
            role: instead of heads, all that `describe_heads` and `clipaudit heads` gave this role.
            k: how many images; default: 20, or all where there are fewer.
            end: `min` for the images least like it.
            where: filters that images must pass, such as `place = water`; default: all images.
            unique: leave out copies of better images and of the query.

        Raises UsageError for anything that cannot be asked, and the errors of `HeadIndex.open`.
        """
        parts = parts_of(self.run, text=text, key=key, image=image, minus=minus)
        weights = dict(heads) if isinstance(heads, Mapping) else dict.fromkeys(as_names(heads), 1.0)
        names = list(weights) if role is None else self.heads_of_role(role)
        self.check(names, k, as_names(where), weights)
        return self.answer(
            Question(
                queries=self.query_vectors(names, self._encoder, parts),
                text=tuple(part.text is not None for part in parts),
                part_weights=tuple(part.weight for part in parts),
                weights=weights if role is None else {},
                k=k,
                end=end,
                where=where,
                unique=unique,
                leave_out=tuple(part.key for part in parts if part.key is not None),
            )
        )

    def check(self, names: Sequence[str], k: int | None, where: tuple[str, ...], weights: Mapping[str, float]) -> None:
        """What can be told of a question before a model is loaded: its indexes, `k`, filters and weights. UsageError
        for what cannot be answered, and the errors of `HeadIndex.open`.
        """
        check_columns(self.run, names)
        for name, weight in weights.items():
            check_weight(name, weight)
        indexes = [self.index(name) for name in names]
        if indexes:
            _check_count(k, len(indexes[0]))
            if where:
                self._mask(indexes[0].name, where)

    def query_vectors(
        self,
        names: Sequence[str],
        encoder: QueryEncoder,
        parts: Sequence[QueryPart],
    ) -> dict[str, Floats]:
        """The vectors of P parts of a query for each index, (P, dh), or (P, D) for `embedding`."""
        vectors = [
            part_vectors(self.run, encoder, part, names, lambda name, text: self.index(name).fold(text))
            for part in parts
        ]
        return {name: np.stack([by_name[name] for by_name in vectors]) for name in names}

    def answer(self, question: Question) -> Answer:
        """The k best images. UsageError for a question that cannot be answered, and the errors of `HeadIndex.open`."""
        if not question.queries:
            raise UsageError("no head is asked: give --head, --role or --embedding")
        indexes = [self.index(name) for name in question.queries]
        if len({index.card.segments for index in indexes}) > 1:
            names = ", ".join(index.name for index in indexes)
            raise UsageError(
                f"the indexes of {names} do not cover the same shards: `clipaudit index --update` evens them"
            )
        first = indexes[0]
        _check_count(question.k, len(first))
        where = as_names(question.where)
        allowed = self._mask(first.name, where) if where or first.row_map.in_state is not None else None
        search = _Search(indexes, question, allowed)
        hits, notes = search.hits()
        if allowed is not None and not allowed.any() and (why := first.row_map.why_empty(where)):
            notes = (*notes, f"no image has {why}")
        stale = dict.fromkeys(index.stale for index in indexes if index.stale)
        return Answer(hits=hits, notes=(*stale, *notes))

    def heads_of_role(self, role: str) -> list[str]:
        """Stored heads whose role is `role` (a property, or a kind such as `context-like`), as `clipaudit heads` found.

        UsageError when the heads have not been described, or none has this role.
        """
        roles = self._roles()
        chosen = [head for head, names in roles.items() if role in names]
        if not chosen:
            known = ", ".join(sorted({name for names in roles.values() for name in names})) or "none: no head has one"
            raise UsageError(
                f"no head of the run at {self.run.directory.url} has the role {role!r}; the roles are {known}"
            )
        return chosen

    def _roles(self) -> dict[str, tuple[str, ...]]:
        """Head -> its role's label and kind."""
        stored, url = stored_description(self.run), self.run.url
        if stored is None:
            raise UsageError(f"the heads of the run at {url} have no roles yet: run `clipaudit heads {url}` first")
        path, heads = stored
        try:
            roles = {name: words["role"] for name, words in heads.items() if name in self.run.head_labels}
            return {
                name: (role["label"], *filter(None, [role.get("kind")])) if role and role["label"] else ()
                for name, role in roles.items()
            }
        except (KeyError, TypeError) as error:
            raise IntegrityError(f"{path} is damaged: run `clipaudit heads {url}` again") from error

    def _new_mask(self, name: str, where: tuple[str, ...]) -> Bools:
        return self.index(name).mask(where)


def hash_distance(first: int, second: int) -> int:
    """Bits in which two 64-bit hashes differ, given as signed integers."""
    return ((first ^ second) & 0xFFFF_FFFF_FFFF_FFFF).bit_count()


def _check_count(k: int | None, rows: int) -> None:
    """UsageError unless an index of some rows can give `k` of them."""
    if k is not None and k > rows:
        raise UsageError(f"-k {k} asks for more neighbours than the {rows:,} vectors of the index")
    if k is not None and k < 1:
        raise UsageError(f"-k must be at least 1, not {k}")


class _Search:
    """The search for one question's hits."""

    def __init__(self, indexes: Sequence[HeadIndex], question: Question, allowed: Bools | None) -> None:
        self._indexes, self._question = indexes, question
        self._rows = indexes[0].row_map
        self._own = [self._rows.number(*sample) for sample in question.leave_out]
        self._k = min(DEFAULT_K, len(self._rows)) if question.k is None else question.k
        self._allowed = allowed
        self._sign = -1.0 if question.end == "min" else 1.0
        self._queries = [self._prepared(index) for index in indexes]
        self._notes: list[str] = []

    def _prepared(self, index: HeadIndex) -> Float32s:
        """(1, dim) float32, the query that the index is searched with: weighted, and negated for the lowest end."""
        query = self._question.combined(index.name, index.space)[None]
        return (query * np.float32(self._sign * self._question.weights.get(index.name, 1.0))).astype(np.float32)

    def hits(self) -> tuple[tuple[Hit, ...], tuple[str, ...]]:
        """The best k, copies left out where that was asked, and remarks on them."""
        k, rows = self._k, len(self._rows)
        wanted = k + len(self._own)
        while True:  # copies that are left out make room: ask for twice as many until there are k
            numbers, scores = self._best(min(wanted, rows))
            chosen, copies = self._without_copies(numbers)
            if len(chosen) >= k or len(numbers) < min(wanted, rows) or wanted >= rows:
                break
            wanted *= 2
        places = np.array(chosen[:k], np.int64)
        if copies:
            self._notes.append(f"{copies} copies of images that are shown were left out")
        if len(places) < k and (self._question.k is not None or self._allowed is not None):
            why = "there are no more" if self._allowed is None else "no more pass the filter or belong to that state"
            why = "the filter lets no more through" if self._question.where else why
            self._notes.append(f"{len(places)} of {k} images: {why}")
        parts = self._parts(numbers[places]) if len(self._indexes) > 1 else [{}] * len(places)
        ranked = zip(self._rows.rows(numbers[places]), scores[places], parts, strict=True)
        hits = tuple(
            Hit(rank=rank, score=self._sign * float(score), row=row, parts=part)
            for rank, (row, score, part) in enumerate(ranked, 1)
        )
        return hits, tuple(dict.fromkeys(self._notes))

    def _best(self, k: int) -> tuple[Ints, Float32s]:
        """Numbers of at most k rows and their scores, (m,) each, best first."""
        if len(self._indexes) > 1:
            return self._combined(k)
        nearest = self._indexes[0].nearest(self._queries[0], k, self._allowed)
        valid = nearest.numbers[0] >= 0
        return nearest.numbers[0][valid], nearest.scores[0][valid]

    def _combined(self, k: int) -> tuple[Ints, Float32s]:
        """The same by the sum over several heads, by the threshold algorithm of Fagin, Lotem and Naor (2001).

        Each head names its best rows, and all named rows get their full score. A row that no head named scores at most
        the sum of the heads' last scores; once k rows reach that bound, no other row can be better.
        """
        rows = len(self._rows)
        width = min(max(_FIRST_CANDIDATES, 4 * k), rows)
        while True:
            lists = [
                index.nearest(query, width, self._allowed)
                for index, query in zip(self._indexes, self._queries, strict=True)
            ]
            named = np.unique(np.concatenate([nearest.numbers[0] for nearest in lists]))
            named = named[named >= 0]
            scores = np.sum(self._products(named), axis=0)
            order = np.argsort(-scores, kind="stable")[:k]
            # threshold: no unnamed row can score more than the last named rows of all heads together
            bound = sum(float(nearest.scores[0][-1]) for nearest in lists)
            complete = len(order) >= k and float(scores[order[-1]]) >= bound
            if complete or width >= rows or bound == -np.inf:
                break
            if width >= _MAX_CANDIDATES:
                self._notes.append("the sum over heads was taken of their best rows; a better image may be missing")
                break
            width = min(4 * width, rows)
        return named[order], scores[order].astype(np.float32)

    def _products(self, numbers: Ints) -> list[Float32s]:
        """Each head's weighted score of some rows, (m,) each."""
        pairs = zip(self._indexes, self._queries, strict=True)
        return [index.prepared(numbers) @ query[0] for index, query in pairs]

    def _parts(self, numbers: Ints) -> list[dict[str, float]]:
        """Each row's score by head."""
        products = self._products(numbers)
        return [
            {index.name: self._sign * float(scores[i]) for index, scores in zip(self._indexes, products, strict=True)}
            for i in range(len(numbers))
        ]

    def _without_copies(self, numbers: Ints) -> tuple[list[int], int]:
        """Places in `numbers` without the query itself and, where that is asked, without copies; how many copies."""
        places = [place for place, number in enumerate(numbers.tolist()) if number not in self._own]
        if not self._question.unique:
            return places, 0
        hashes = self._rows.hashes(numbers[np.array(places, np.int64)])
        seen: list[int] = []
        if self._own:
            seen += [own for own in self._rows.hashes(self._own) if own is not None]
        chosen: list[int] = []
        for place, phash in zip(places, hashes, strict=True):
            if phash is not None:
                if any(hash_distance(phash, other) <= COPY_BITS for other in seen):
                    continue
                seen.append(phash)
            chosen.append(place)
            if len(chosen) == self._k:
                return chosen, place + 1 - len(chosen) - int(np.isin(numbers[: place + 1], self._own).sum())
        return chosen, len(places) - len(chosen)
