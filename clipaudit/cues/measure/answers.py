"""Logits of the images that a counterfactual is asked of, with what each head adds to them, bounded in memory (S10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import Bools, Float32s, Float64s, Ints
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.measure.vectors import each_of_vectors, read_vectors
from clipaudit.cues.statistics.balance import balanced_mean
from clipaudit.cues.statistics.right import right_answers

MAX_ROWS: Final = 20_000
_LOGIT_BYTES: Final = 2**29


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """n images, P heads, C classes."""

    facts: ImageFacts
    heads: tuple[str, ...]
    classes: Float32s
    """(C, D) class vectors."""
    base: Float32s
    """(n, C) image-text products, as they are."""
    head_logits: Float32s
    """(P, n, C) what each head's deviation from its mean adds."""
    means: dict[str, Float64s]
    """(dh,) by head."""
    values: dict[str, npt.NDArray[np.float16]]
    """(n, dh) by head, as stored: for directions inside heads."""
    embedding: npt.NDArray[np.float16]
    """(n, D)"""
    bases: dict[str, Float64s]
    """Q by head, (dh, D)."""

    @property
    def truth(self) -> Ints:
        """(n,) classes."""
        return self.facts.truth

    def right(self, logits: Float32s) -> Bools:
        """(n,) whether (n, C) logits answer with the class."""
        return right_answers(logits, self.truth)

    def drawn_from(self, total: int, by: str | None) -> str:
        """What to say of these images where they are a sample of `total`, drawn by classes and values of a column."""
        if len(self.facts) >= total:
            return ""
        values = "" if by is None else f" and values of {by.rpartition('.')[2]}"
        return f", a sample of {total:,}, classes{values} as evenly as they allow"

    def without(self, heads: Sequence[str], alpha: float = 1.0) -> Float32s:
        """(n, C) logits with a part alpha of the heads' deviations from their means taken out.

        Nothing to take out gives `base` itself, bit for bit.
        """
        places = [self.heads.index(head) for head in heads]
        if not places or alpha == 0:
            return self.base
        logits: Float32s = self.base - np.float32(alpha) * self.head_logits[places].sum(axis=0)
        return logits

    def embedding_without(self, heads: Sequence[str]) -> Float32s:
        """(n, D) embeddings with the heads at their means."""
        embedding = self.embedding.astype(np.float32)
        for head in heads:
            deviation = self.values[head].astype(np.float32) - self.means[head].astype(np.float32)
            # z - sum (y - mean y) Q, not normalised again (docs/method.md 5)
            embedding -= deviation @ self.bases[head].astype(np.float32)
        return embedding


def sampled(facts: ImageFacts, limit: int, seed: int, by: str | None = None) -> ImageFacts:
    """At most about `limit` images, classes (and values of an attribute) as evenly as they allow."""
    if len(facts) <= limit:
        return facts
    groups = facts.truth.copy()
    if by is not None:
        groups = groups * (len(facts.attributes[by].values) + 1) + facts.attributes[by].codes + 1
    rng = np.random.default_rng([seed, 3])
    order = np.lexsort((rng.random(len(facts)), groups))
    _, starts, counts = np.unique(groups[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(starts, counts)
    # small groups stay whole, larger ones are cut to one size
    per_group = _water_level(counts, limit)
    return facts.take(np.sort(order[rank < per_group]))


def _water_level(counts: Ints, limit: int) -> int:
    """The largest m with sum(min(counts, m)) <= limit, at least 1."""
    low, high = 1, int(counts.max())
    while low < high:
        middle = (low + high + 1) // 2
        if int(np.minimum(counts, middle).sum()) <= limit:
            low = middle
        else:
            high = middle - 1
    return low


def answers(
    facts: ImageFacts, heads: Sequence[str], classes: Float32s, *, seed: int = 0, by: str | None = None
) -> Answers:
    """Logits of the images, or of a sample that fits into memory, by the (C, D) class vectors.

    Heads' means are those of the discovery half, classes balanced.
    """
    C, P = len(classes), len(heads)
    # the (P, n, C) float32 logits are the largest array
    limit = max(1000, min(MAX_ROWS, _LOGIT_BYTES // (4 * C * max(P, 1))))
    facts = sampled(facts.take(facts.truth >= 0), limit, seed, by)
    run, basis = facts.run, facts.run.basis()
    embedding = read_vectors(run, "embedding", facts.position)
    values = dict(each_of_vectors(run, heads, facts.position))
    bases = {head: basis.Q(head).astype(np.float64) for head in heads}
    pieces = facts.cluster if facts.source is None else facts.source
    weight = 1 / np.bincount(pieces)[pieces]  # copies of one image, or images of one source, count once
    means = {head: balanced_mean(values[head], facts.truth, facts.discovery, weight) for head in heads}
    logits = np.empty((P, len(facts), C), np.float32)
    for place, head in enumerate(heads):
        toward = (bases[head] @ classes.T.astype(np.float64)).astype(np.float32)
        logits[place] = (values[head].astype(np.float32) - means[head].astype(np.float32)) @ toward
    return Answers(
        facts=facts,
        heads=tuple(heads),
        classes=classes,
        base=embedding.astype(np.float32) @ classes.T,
        head_logits=logits,
        means=means,
        values=values,
        embedding=embedding,
        bases=bases,
    )
