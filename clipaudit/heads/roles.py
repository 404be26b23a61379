"""What a head looks at: which property of the text pool spans more of its variance than chance, as a role label.

This replaces the labelling by hand of Gandelsman, Efros, Steinhardt 2024 (arXiv 2310.05916), section 4.2. The
max-statistic over properties is that of Westfall and Young (1993): single-step, so that it holds whatever the
properties have in common.

A property's subspace is made of the main directions in which its own texts differ. Choosing directions by TextSpan
instead tells properties apart badly: the best five of any 200 texts span a head almost as well as those of the right
property do, because a random set has some texts of that property too.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import fmean
from typing import Final

import numpy as np

from clipaudit.arrays import Float64s, Floats, Ints
from clipaudit.errors import UsageError

ALPHA: Final = 0.05
"""A role needs an adjusted p-value at most this large."""
MIN_CONFIDENCE: Final = 0.5
"""And to come first in at least this share of the resamples."""
_THREADS: Final = min(8, os.cpu_count() or 1)
_BLOCK: Final = 2**21
"""Numbers of texts held at once."""


@dataclass(frozen=True, kw_only=True)
class PropertyShare:
    """How much of a head's variance one property's texts span."""

    name: str
    kind: str
    """`core-like`, `context-like` or `unspecified`: what most of the property's texts are."""
    explained: float
    """Share of the head's variance in the subspace of the first few directions in which these texts differ, 0..1."""
    others: float
    """The same of all texts of other properties together."""
    p: float
    """Share of the permutations (the observed one among them) in which any property stands out as much; never 0."""


@dataclass(frozen=True, kw_only=True)
class Role:
    """What a head looks at, as far as the pool's properties can tell."""

    head: str
    confidence: float
    """Share of the resamples (texts drawn again, with replacement, inside every property) in which the first property
    comes first again. It says how clear the choice between properties is, not how probable the label is."""
    kind_confidence: float
    """Share of the resamples in which any property of the first one's kind comes first."""
    properties: tuple[PropertyShare, ...]
    """All of them, what explains most first."""

    @property
    def first(self) -> PropertyShare:
        """The property that explains most, whether or not that is enough for a role."""
        return self.properties[0]

    @property
    def label(self) -> str | None:
        """The first property when chance does not explain it (p <= ALPHA) and it is clear (>= MIN_CONFIDENCE)."""
        return self.first.name if self._stands_out and self.confidence >= MIN_CONFIDENCE else None

    @property
    def kind(self) -> str | None:
        """The first property's kind when that much is clear, be the property itself clear or not."""
        return self.first.kind if self._stands_out and self.kind_confidence >= MIN_CONFIDENCE else None

    @property
    def _stands_out(self) -> bool:
        return self.first.p <= ALPHA


class RoleFinder:
    """The roles of heads by one pool; permutations and resamples are drawn once, for all heads.

    Null hypothesis: a text's property has nothing to do with what the head's images vary along. Properties are permuted
    over texts, and every permuted set is treated as the real one: the variance in the subspace of its first
    `directions` principal directions, less that of all other texts. Sets of one size have one null, whose mean and
    deviation make the sizes comparable; the largest standardised value over properties is compared with its own
    permutations.
    """

    def __init__(
        self,
        properties: Sequence[str],
        kinds: Sequence[str],
        *,
        directions: int = 5,
        permutations: int = 100,
        resamples: int = 50,
        seed: int = 0,
        unspecified: str = "unspecified",
    ) -> None:
        """Draw what is needed for a pool of T texts.

        Args:
            properties, kinds: of each of the T texts.
            directions: principal directions of each property's texts that make its subspace.
            permutations: of properties over texts, for p-values.
            resamples: of texts inside every property, for confidences.
            seed: of both.
            unspecified: the property of texts that have none. Those, and properties of under 2 * directions texts, are
                left out.

        UsageError when fewer than two properties remain.
        """
        least = 2 * directions
        counts = Counter(name for name in properties if name != unspecified)
        self.names = [name for name, count in counts.items() if count >= least]
        if len(self.names) < 2:
            raise UsageError(
                f"roles need a text file with at least two properties of {least} texts or more each, as"
                " text<TAB>property lines"
            )
        members = [np.flatnonzero(np.array(properties, object) == name) for name in self.names]
        self.kinds = [Counter(kinds[i] for i in places.tolist()).most_common(1)[0][0] for places in members]
        self._directions = directions
        self._rows = np.concatenate(members)  # rows of the pool, property after property
        ends = np.cumsum([0, *map(len, members)]).tolist()
        rng = np.random.default_rng(seed)
        texts = np.arange(len(self._rows))
        # drawn once: every head is compared with the same permutations and resamples
        permuted = rng.permuted(np.tile(texts, (permutations, 1)), axis=1)
        segments = list(pairwise(ends))
        self._observed = [texts[None, a:b] for a, b in segments]
        self._permuted = [permuted[:, a:b] for a, b in segments]
        self._resampled = [rng.integers(a, b, (resamples, b - a)) for a, b in segments]

    def find(self, head: str, covariance: Floats, texts: Floats) -> Role:
        """The role of one head.

        covariance: (dh, dh) floats, of its coordinates. texts: (T, dh) floats, the pool in its coordinates, as
        `textspan.fold` gives it.
        """
        S = np.asarray(covariance, np.float64)
        trace = float(np.trace(S))
        if trace <= 0:
            return self._nothing(head)
        # trace 1, so that variances are shares
        R, S = texts[self._rows].astype(np.float64), S / trace
        with ThreadPoolExecutor(_THREADS) as threads:  # LAPACK lets other threads run
            contrast = partial(explained_by, S, R, directions=self._directions, rest=True)
            permuted = threads.map(contrast, self._permuted)
            resampled = threads.map(partial(explained_by, S, R, directions=self._directions), self._resampled)
            observed = np.array(list(threads.map(contrast, self._observed)))[:, :, 0]
            null = np.stack([own - others for own, others in permuted], axis=1)  # (permutations, P)
            again = np.stack([own for own, _ in resampled], axis=1)  # (resamples, P)
        return self._role(head, observed[:, 0], observed[:, 1], null, again)

    def _role(self, head: str, inside: Float64s, outside: Float64s, null: Float64s, resampled: Float64s) -> Role:
        """inside, outside (P,), null (permutations, P), resampled (resamples, P)."""
        # the observed assignment is one of the permutations: only with it in the scale is the p-value exact
        contrasts = np.concatenate([(inside - outside)[None], null])  # (1 + permutations, P)
        # each property by its own null, because small sets vary more
        z = (contrasts - contrasts.mean(axis=0)) / np.maximum(contrasts.std(axis=0), 1e-12)
        p = (z.max(axis=1)[:, None] >= z[0]).mean(axis=0)  # max-T: against the largest of each permutation
        order = np.argsort(-inside, kind="stable").tolist()
        again = [self.names[i] for i in resampled.argmax(axis=1)]
        kinds = dict(zip(self.names, self.kinds, strict=True))
        first = self.names[order[0]]
        return Role(
            head=head,
            confidence=fmean(name == first for name in again),
            kind_confidence=fmean(kinds[name] == kinds[first] for name in again),
            properties=tuple(self._share(i, inside[i], outside[i], p[i]) for i in order),
        )

    def _share(self, place: int, explained: float, others: float, p: float) -> PropertyShare:
        name, kind = self.names[place], self.kinds[place]
        return PropertyShare(name=name, kind=kind, explained=float(explained), others=float(others), p=float(p))

    def _nothing(self, head: str) -> Role:
        """Of a head that never varies."""
        properties = tuple(self._share(place, 0.0, 0.0, 1.0) for place in range(len(self.names)))
        return Role(head=head, confidence=0.0, kind_confidence=0.0, properties=properties)


def explained_by(
    S: Float64s, texts: Float64s, members: Ints, directions: int, *, rest: bool = False
) -> tuple[Float64s, Float64s]:
    """The shares of a head's variance along the main directions in which sets of texts differ.

    S: (dh, dh) float64 covariance of trace 1. texts: (T, dh) float64 in the head's coordinates. members: (B, n) rows of
    the texts in each of B sets. Returns (B,) float64 shares, 0..1, of the variance in the subspace of the first
    principal `directions` of each set's own variation; and with `rest` the same of all texts outside of each set, else
    zeros.
    """
    texts = texts - texts.mean(axis=0)
    scatter, total = texts.T @ texts, texts.sum(axis=0)
    inside, outside = np.empty(len(members)), np.zeros(len(members))
    size = members.shape[1]
    step = max(1, _BLOCK // max(size * texts.shape[1], 1))
    for start in range(0, len(members), step):
        window = slice(start, start + step)
        X = texts[members[window]]  # (b, n, dh)
        own, sums = np.matmul(X.transpose(0, 2, 1), X), X.sum(axis=1)
        inside[window] = _along(S, own, sums, size, directions)
        if rest:
            # X'X and sums of all other texts: those of the pool less the set's own
            outside[window] = _along(S, scatter - own, total - sums, len(texts) - size, directions)
    return inside, outside


def _along(S: Float64s, scatter: Float64s, sums: Float64s, size: int, directions: int) -> Float64s:
    """(b,) share of S along the main directions of sets given by X'X (b, dh, dh), column sums (b, dh) and size."""
    # sum (x - m)(x - m)' = X'X - n m m'
    centred = scatter - sums[:, :, None] * sums[:, None, :] / max(size, 1)
    _, vectors = np.linalg.eigh(centred)  # ascending: the last columns are the main ones
    U = vectors[:, :, -directions:]
    # tr(U' S U) of each set
    shares: Float64s = np.einsum("bik,bik->b", np.matmul(S, U), U)
    return shares
