"""Scores of all rows of a run by texts, samples and images, and the exact parts that add up to one image's score."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Float32s, Float64s, Floats
from clipaudit.errors import UsageError
from clipaudit.retrieval.card import DEFAULT_METRIC, EMBEDDING, Space, check_columns
from clipaudit.retrieval.parts import QueryPart, check_parts, part_vectors
from clipaudit.retrieval.queries import QueryEncoder
from clipaudit.retrieval.retriever import Question
from clipaudit.run.basis import Basis
from clipaudit.run.moments import Moments
from clipaudit.run.reader import Run

_VECTOR_BYTES: Final = 2**30
"""Of stored vectors that stay in memory."""
_SCORES: Final = 16
"""Questions whose scores stay in memory."""
_BLOCK_ROWS: Final = 65_536


@dataclass(frozen=True, kw_only=True)
class ScorePart:
    """What one component adds to an image's score."""

    name: str
    """A head's label, a component's column, or `rest`."""
    value: float


@dataclass(frozen=True, kw_only=True)
class ScoreParts:
    """An image's score and the parts that sum to it."""

    score: float
    parts: tuple[ScorePart, ...]
    """In the order of the layers; the last one is the rest, so that the sum is exact."""


class RunScores:
    """Scores over a run's ok rows, in the order of `Run.heads`. For any number of threads.

    The scores are those of an index with the default metric: the cosine of rows and queries, minus the rows' mean.
    """

    def __init__(self, run: Run, encoder: QueryEncoder) -> None:
        self._run, self._encoder = run, encoder
        self._vectors: OrderedDict[str, npt.NDArray[Any]] = OrderedDict()
        self._scores: OrderedDict[Any, Float32s] = OrderedDict()
        # one question is computed at a time: each uses all cores, and equal questions are computed once
        self._lock = threading.RLock()

    @property
    def moments(self) -> Moments:
        """Of every vector column, over all ok rows."""
        # before the lock that a cached property has of its own in Python 3.11: who scores holds this one, and asks too
        with self._lock:
            return self._moments

    @cached_property
    def _moments(self) -> Moments:
        return self._run.moments()

    @cached_property
    def basis(self) -> Basis:
        """Of the stored heads."""
        return self._run.basis()

    def vectors(self, name: str) -> npt.NDArray[Any]:
        """(n, length) float16, a vector column of all ok rows; UsageError when the run has no such column."""
        with self._lock:
            if name not in self._vectors:
                self._vectors[name] = self._run.vectors(name, ()).values
                while len(self._vectors) > 1 and sum(v.nbytes for v in self._vectors.values()) > _VECTOR_BYTES:
                    self._vectors.popitem(last=False)
            self._vectors.move_to_end(name)
            return self._vectors[name]

    def scores(self, parts: Sequence[QueryPart], weights: Mapping[str, float]) -> Float32s:
        """(n,) of each row: the weighted sum over `weights` (head or `embedding` -> weight) of its scores.

        UsageError for no parts, a head that is not stored, a sample that is not in the run, and texts or images that
        the model cannot take.
        """
        check_parts(parts)
        weights = dict(weights) or {EMBEDDING: 1.0}
        check_columns(self._run, list(weights))
        key = (tuple(part.identity for part in parts), tuple(sorted(weights.items())))
        with self._lock:
            if key not in self._scores:
                self._scores[key] = self._compute(parts, weights)
                if len(self._scores) > _SCORES:
                    self._scores.popitem(last=False)
            self._scores.move_to_end(key)
            return self._scores[key]

    def _compute(self, parts: Sequence[QueryPart], weights: Mapping[str, float]) -> Float32s:
        names = list(weights)
        by_part = [part_vectors(self._run, self._encoder, part, names, self._fold) for part in parts]
        question = Question(
            queries={name: np.stack([vectors[name] for vectors in by_part]) for name in names},
            text=tuple(part.text is not None for part in parts),
            part_weights=tuple(part.weight for part in parts),
        )
        total = np.zeros(len(self._run), np.float32)
        for name, weight in weights.items():
            space = Space(DEFAULT_METRIC, self.moments.mean(name))
            query = np.float32(weight) * question.combined(name, space)
            values = self.vectors(name)
            for start in range(0, len(values), _BLOCK_ROWS):
                total[start : start + _BLOCK_ROWS] += space.images(values[start : start + _BLOCK_ROWS]) @ query
        return total

    def _fold(self, name: str, text: Floats) -> Floats:
        """(1, D) text vectors in a head's coordinates, (1, dh): `Q t`."""
        if name == EMBEDDING:
            return text
        folded: Floats = text @ self.basis.Q(name).T
        return folded

    def parts_of(self, number: int, direction: Floats, *, centred: bool) -> ScoreParts:
        """The score z.t of a row along a (D,) direction t, and what each head and stored component adds to it.

        centred: compared with the average image, (z - mean z).t. A layer's attention, where it is stored, is given
        without the layer's stored heads. Heads add y.(Q t) (docs/method.md 1). UsageError for another number of
        entries than the run's embeddings have.
        """
        t = np.asarray(direction, np.float64)
        if t.shape != (self._run.spec.embed_dim,):
            raise UsageError(f"a direction has {self._run.spec.embed_dim} numbers, not shape {t.shape}")
        score = self._product(EMBEDDING, number, t, centred)
        values = {name: self._product(name, number, t, centred) for name in self._listed()}
        parts = [ScorePart(name=name, value=value) for name, value in values.items() if name in self._run.spec.heads]
        for name, value in values.items():
            if name.startswith("attention_"):
                layer = name.removeprefix("attention_")
                value -= sum(part.value for part in parts if part.name.startswith(f"{layer}H"))
            if name not in self._run.spec.heads:
                parts.append(ScorePart(name=name, value=value))
        rest = score - sum(part.value for part in parts)
        return ScoreParts(score=score, parts=(*parts, ScorePart(name="rest", value=rest)))

    def _listed(self) -> list[str]:
        """Heads, and components that overlap with no other: self-attention is part of the heads already."""
        others = [name for name in self._run.spec.components if name.startswith(("attention_", "mlp_"))]
        return [*self._run.spec.heads, *others]

    def _product(self, name: str, number: int, t: Float64s, centred: bool) -> float:
        values = self._row(name, number)
        if centred:
            values = values - self.moments.mean(name)
        folded = self.basis.Q(name).astype(np.float64) @ t if name in self._run.spec.heads else t
        return float(values @ folded)

    def _row(self, name: str, number: int) -> Float64s:
        row: Float64s = self.vectors(name)[number].astype(np.float64)
        return row
