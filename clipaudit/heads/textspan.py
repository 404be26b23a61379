"""Heads in words: TextSpan on moments, with shared texts, stability over shards and a head's share of the variance.

Source: Gandelsman, Efros, Steinhardt 2024 (arXiv 2310.05916), Algorithm 1. There a head's outputs of all images are
centred and projected again and again; here only their covariance is needed, in the head's own basis (docs/method.md 3):
the cost does not grow with the number of images.

Centred, as in the paper: its algorithm ranks texts by the variance of the projections, so a head's mean, which all
images share and which mean-ablation keeps, names nothing. Texts are taken as they are given, as in the published code:
centred, what a text means would depend on which others are in the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from clipaudit.arrays import ArrayHolder, Float64s, Floats, Ints
from clipaudit.errors import UsageError
from clipaudit.run.basis import Basis
from clipaudit.run.moments import Moments

Criterion: TypeAlias = Literal["explained", "reference"]

_TEXT_TOLERANCE = 1e-6
"""A text with less than this share of the longest text's length left after deflation is rounding noise: text embeddings
and stored bases are float32."""
_VARIANCE_TOLERANCE = 1e-12
"""A text that adds less than this share of the head's variance adds rounding noise."""
_TIE = 1e-10
"""Scores this close, relatively, are equal: copies of a text differ by the order in which BLAS adds them up."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TextSpan(ArrayHolder):
    """The texts that span a head, in the order of choice."""

    criterion: Criterion
    texts: Ints
    """(m,) indices into the candidates; fewer than asked for when nothing is left to explain."""
    explained: Float64s
    """(m,) what each text adds, as a share of the head's variance, 0..1."""
    directions: Float64s
    """(m, dh) orthonormal rows in the head's basis: each text's part that is orthogonal to the texts before it,
    pointing towards the text. A text's value for an image is `(y - mean) @ direction`."""
    variance: float
    """The head's variance: the trace of its covariance."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def cumulative(self) -> Float64s:
        """(m,) share of the head's variance that the texts up to each one explain together."""
        return np.cumsum(self.explained)

    def projector(self, texts: int | None = None) -> Float64s:
        """(dh, dh) float64 orthogonal projector on the span of the first `texts` texts; of all by default.

        ValueError for a negative number.
        """
        chosen = self.directions[: self._checked(texts)]
        return chosen.T @ chosen

    def reconstruct(self, values: Floats, mean: Floats, texts: int | None = None) -> Float64s:
        """A head's coordinates as its first `texts` texts span them: `mean + (values - mean) P`.

        values: (..., dh) floats. mean: (dh,). Returns (..., dh) float64. ValueError for a negative number of texts.
        """
        centre = np.asarray(mean, np.float64)
        return centre + (values - centre) @ self.projector(texts)

    def _checked(self, texts: int | None) -> int:
        if texts is not None and texts < 0:
            raise ValueError(f"a reconstruction cannot have {texts} texts")
        return len(self) if texts is None else min(texts, len(self))


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Rest(ArrayHolder):
    """What a head varies along and its texts do not say."""

    left: float
    """Share of the head's variance that the texts leave, 0..1."""
    direction: Float64s
    """(dh,) unit vector in the head's basis, orthogonal to the texts' directions: the main one of what is left. Its
    sign is arbitrary, but the same every time."""
    explained: float
    """Share of the head's variance along it, 0..1."""


def rest_of(covariance: Floats, span: TextSpan) -> Rest | None:
    """The main direction of what a head's texts leave of its covariance (dh, dh); None where they leave nothing.

    A head's leading components are often in no text's words (ResiDual: Basile, Maiorca, Bortolussi, Rodola and
    Locatello, 2024); such a direction is best looked at by the images at its ends.
    """
    outside = np.eye(len(covariance)) - span.projector()
    values, vectors = np.linalg.eigh(outside @ np.asarray(covariance, np.float64) @ outside)
    if span.variance <= 0 or values[-1] <= _TEXT_TOLERANCE * span.variance:
        return None
    direction = vectors[:, -1]
    direction = direction * np.sign(direction[np.argmax(np.abs(direction))])
    left = float(np.clip(values, 0, None).sum()) / span.variance
    return Rest(left=left, direction=direction, explained=float(values[-1]) / span.variance)


def fold(Q: Floats, texts: Floats) -> Float64s:
    """Texts in a head's coordinates, `Q t` (docs/method.md 1).

    Q: (dh, D) the head's orthonormal basis. texts: (T, D) vectors in the joint space. Returns (T, dh) float64.
    """
    return texts.astype(np.float64, copy=False) @ Q.astype(np.float64, copy=False).T


def textspan(
    covariance: Floats,
    texts: Floats,
    steps: int = 20,
    criterion: Criterion = "explained",
    *,
    total_variance: float | None = None,
) -> TextSpan:
    """Choose texts one by one, each the best given those before; a step costs O(T dh + dh^2).

    Args:
        covariance: (dh, dh) floats, of the head's coordinates.
        texts: (T, dh) candidates in the head's coordinates, `fold(Q, embeddings)`; of any length.
        steps: most texts to choose. There are fewer when there are no more candidates or the head's rank is exhausted.
        criterion: `explained` takes the text that adds most explained variance, `t' S t / t' t` of what is left of
            text and covariance (the greedy step of the paper's objective); `reference` takes the largest `t' S t`
            (the published code's: longer texts are preferred).
        total_variance: what shares are relative to; the covariance's trace by default.

    Ties go to the lowest index. UsageError for another criterion, ValueError when the shapes do not fit together or a
    number is not finite. Source: arXiv 2310.05916, Algorithm 1, on moments (docs/method.md 3).

    >>> run, pool = Run("demo-out/birds-run"), TextPool.of(["a photo of water", "a photo of a forest", "a cat"])
    >>> texts = pool.vectors(run) @ run.basis().Q("L05H00").T  # (3, 32)
    >>> span = textspan(run.moments("L05H00").covariance(), texts, steps=2)
    >>> len(span.texts), bool(0 < span.cumulative[-1] <= 1)
    (2, True)
    """
    S, R = _checked(covariance, texts, criterion)
    variance = float(np.trace(S))
    values, vectors = np.linalg.eigh(S)
    L = vectors * np.sqrt(np.clip(values, 0, None))  # S = L L'
    chosen, directions = _choose(R, L, steps, criterion, _VARIANCE_TOLERANCE * variance)
    added = _squares(directions @ L)  # q' S q of each direction q: what it adds to the explained variance
    total = variance if total_variance is None else total_variance
    return TextSpan(
        criterion=criterion,
        texts=np.array(chosen, np.int64),
        explained=added / total if total > 0 else np.zeros_like(added),
        directions=directions,
        variance=variance,
    )


def _choose(R: Float64s, L: Float64s, steps: int, criterion: str, least: float) -> tuple[list[int], Float64s]:
    """The greedy loop: indices and (m, dh) orthonormal directions; texts R (T, dh) are deflated in place.

    `least`: gains below it are rounding noise.

    A text's score t' S t is |t' L|^2. Deflating W = R L along with R takes no differences of near-equal squares, and S
    itself needs no deflation, because what is left of a text is orthogonal to all that was chosen.
    """
    W, scratch = R @ L, np.empty_like(R)
    enough = _TEXT_TOLERANCE**2 * float(_squares(R).max(initial=0.0))
    chosen: list[int] = []
    directions = np.empty((max(0, min(steps, *R.shape)), R.shape[1]))
    for step in range(len(directions)):
        lengths, scores = _squares(R), _squares(W)
        # t' S t / t' t, the variance that a text's own direction has
        gains = np.divide(scores, lengths, out=np.zeros_like(scores), where=lengths > enough)
        useful = gains > least
        if not useful.any():
            break
        # `reference` ranks by t' S t, but takes no text of which only rounding noise is left either
        ranking = np.where(useful, gains if criterion == "explained" else scores, -1.0)
        # the first of equal scores: argmax alone would choose by rounding
        best = int(np.argmax(ranking >= (1 - _TIE) * ranking.max()))
        q = R[best] / np.sqrt(lengths[best])
        q = q - directions[:step].T @ (directions[:step] @ q)  # once more: rounding grows where little was left
        q /= np.linalg.norm(q)
        directions[step] = q
        chosen.append(best)
        # t <- t - (t' q) q for every text, and W = R L along with them
        along = (R @ q)[:, None]
        W -= np.multiply(along, q @ L, out=scratch)
        R -= np.multiply(along, q, out=scratch)
    return chosen, directions[: len(chosen)]


def textspans(
    moments: Moments,
    basis: Basis,
    texts: Floats,
    steps: int = 20,
    criterion: Criterion = "explained",
    heads: Sequence[str] | None = None,
    project: Callable[[Float64s, Moments, str], Float64s] | None = None,
) -> dict[str, TextSpan]:
    """The TextSpan of every head of `moments`, or of `heads`, by label; see `textspan`.

    texts: (T, D) floats, vectors in the joint space. `project(texts, moments, head)` is applied to a head's candidates
    (T, dh), see `PublishedAllocation.spanned`. UsageError when the moments are of no rows.
    """
    if moments.count == 0:
        raise UsageError("there are no rows to describe: the moments are of 0 samples")
    spans = {}
    for head in moments.heads if heads is None else heads:
        candidates = fold(basis.Q(head), texts)
        candidates = candidates if project is None else project(candidates, moments, head)
        spans[head] = textspan(moments.covariance(head), candidates, steps, criterion)
    return spans


def variance_share(moments: Moments, head: str) -> float:
    """A head's variance relative to the embedding's, tr cov(y) / tr cov(z) >= 0; 0 when the embedding does not vary.

    Components are correlated, so that the shares of all components need not add up to 1, and one may exceed 1.
    """
    whole = float(moments.variance("embedding").sum())
    return float(moments.variance(head).sum()) / whole if whole > 0 else 0.0


def shared_texts(spans: Mapping[str, TextSpan], top: int | None = None) -> dict[int, tuple[str, ...]]:
    """Texts that several heads have among their first `top`, with those heads: most heads first, then by index."""
    heads_of: dict[int, list[str]] = {}
    for head, span in spans.items():
        for text in span.texts[:top].tolist():
            heads_of.setdefault(text, []).append(head)
    shared = [(text, tuple(heads)) for text, heads in heads_of.items() if len(heads) > 1]
    return dict(sorted(shared, key=lambda item: (-len(item[1]), item[0])))


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class PickStability(ArrayHolder):
    """How often each text is chosen when shards are drawn again."""

    head: str
    top: int
    """A text counts as chosen when it is among the first so many."""
    resamples: int
    frequency: Float64s
    """(T,) share of the resamples in which a text is chosen, 0..1."""
    span: TextSpan
    """From all shards, `top` steps."""


def stability(
    parts: Iterable[Moments],
    head: str,
    texts: Floats,
    *,
    top: int = 10,
    resamples: int = 100,
    seed: int = 0,
    criterion: Criterion = "explained",
) -> PickStability:
    """Bootstrap over shards: draw as many shards as there are, with replacement, merge their moments, choose again.

    Args:
        parts: the moments of each shard (`Run.moments(heads=[head], shards=[n])`), or of groups of shards, at least
            two with rows; each is kept as one covariance.
        head: whose.
        texts: (T, dh) candidates in the head's coordinates.
        top: how many texts are chosen each time.
        resamples: how often.
        seed: of the draws.
        criterion: as in `textspan`.

    UsageError when fewer than two parts have rows.
    """
    filled = [part.select([head], ()) for part in parts if part.count]
    if len(filled) < 2:
        raise UsageError(f"the stability of {head} needs at least two shards with rows, and there are {len(filled)}")
    counts = np.array([part.count for part in filled], np.float64)
    means = np.stack([part.head_mean[0] for part in filled])  # (P, dh)
    scatters = np.stack([part.head_scatter[0] for part in filled])  # (P, dh, dh)
    rng = np.random.default_rng(seed)
    hits = np.zeros(len(texts))
    for _ in range(resamples):
        # how often each part is drawn: a bootstrap sample of as many parts
        times = rng.multinomial(len(filled), np.full(len(filled), 1 / len(filled))).astype(np.float64)
        covariance = _pooled_covariance(times, counts, means, scatters)
        hits[textspan(covariance, texts, top, criterion).texts] += 1
    everything = _pooled_covariance(np.ones(len(filled)), counts, means, scatters)
    return PickStability(
        head=head,
        top=top,
        resamples=resamples,
        frequency=hits / max(resamples, 1),
        span=textspan(everything, texts, top, criterion),
    )


def _pooled_covariance(times: Float64s, counts: Float64s, means: Float64s, scatters: Float64s) -> Float64s:
    """(dh, dh) population covariance of all parts together, part p taken `times[p]` times."""
    weights = times * counts
    rows = weights.sum()
    # sum_p t_p (M2_p + n_p (m_p - m)(m_p - m)'): deviations from the common mean m, no squares of the means themselves
    away = means - weights @ means / rows
    scatter = np.tensordot(times, scatters, axes=1) + (weights[:, None] * away).T @ away
    covariance: Float64s = scatter / rows
    return covariance


def _squares(rows: Float64s) -> Float64s:
    """(n, k) -> (n,) squared lengths."""
    squares: Float64s = np.einsum("nk,nk->n", rows, rows)
    return squares


def _checked(covariance: Floats, texts: Floats, criterion: str) -> tuple[Float64s, Float64s]:
    """The covariance made symmetric, and a copy of the texts, both float64."""
    if criterion not in ("explained", "reference"):
        raise UsageError(f"the criterion must be explained or reference, not {criterion!r}")
    S, R = np.array(covariance, np.float64), np.array(texts, np.float64, order="C")
    if S.ndim != 2 or R.ndim != 2 or S.shape != (R.shape[1], R.shape[1]):
        raise ValueError(f"a covariance of shape {S.shape} and texts of shape {R.shape} do not go together")
    if not (np.isfinite(S).all() and np.isfinite(R).all()):
        raise ValueError("covariance and texts must be finite")
    symmetric: Float64s = (S + S.T) / 2
    return symmetric, R
