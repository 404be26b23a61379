"""The directions that are tested: each head's texts and the user's, with the class prompts projected out (S0)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Float64s, Floats
from clipaudit.heads.texts.pool import TextPool
from clipaudit.heads.textspan import TextSpan, fold, textspan
from clipaudit.run.basis import Basis
from clipaudit.run.moments import Moments

INDISTINGUISHABLE: Final = 0.3
"""A direction with less than this length outside the class prompts cannot be told from them."""
_VARIANCE: Final = 0.95
"""Share of the class vectors' variance in the subspace when there are many classes."""
_MANY_CLASSES: Final = 0.25
"""Classes per joint dimension beyond which the subspace is cut to principal components."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Direction:
    """One text direction u of one head (S0)."""

    head: str
    """Label, such as `L22H05`."""
    text: str
    property: str
    """Of the text pool, such as `location`; `user` for a text that the user gave."""
    kind: str
    """`core-like`, `context-like` or `unspecified`."""
    opposite: str
    """The pool's text that lies furthest at the other end."""
    plain: Float64s
    """(dh,) Q u; the score is `(y - mean) @ plain`."""
    class_free: Float64s
    """(dh,) the same for the direction without its class part, `Q u_perp / |u_perp|`."""
    outside: float
    """|(I - P_W) u|, 0..1: share of its length outside the class prompts."""


def class_subspace(classes: Floats) -> Float64s:
    """(r, D) float64 orthonormal basis W of what class prompts differ in, from (C, D) class vectors (S0).

    All of it when there are few classes; with more than D / 4, the principal components with 95 % of its variance.
    """
    W = classes.astype(np.float64) - classes.mean(axis=0, dtype=np.float64)
    _, sizes, rows = np.linalg.svd(W, full_matrices=False)
    # C vectors minus their mean have rank C - 1 at most
    rank = int((sizes > 1e-6 * sizes.max(initial=0.0)).sum()) if sizes.size else 0
    if len(classes) - 1 > _MANY_CLASSES * classes.shape[1]:
        # many classes span nearly the whole space: projecting all of it out would leave nothing to test
        share = np.cumsum(sizes**2) / max(float((sizes**2).sum()), 1e-300)
        rank = min(rank, int(np.searchsorted(share, _VARIANCE)) + 1)
    basis: Float64s = rows[:rank]
    return basis


def head_directions(
    head: str,
    Q: Floats,
    span: TextSpan,
    candidates: Float64s,
    pool: TextPool,
    subspace: Float64s,
) -> list[Direction]:
    """The directions of a head's TextSpan over the pool (S0).

    Q: (dh, D) orthonormal basis of the head; candidates: (T, dh) the pool's texts in its coordinates; subspace: (r, D)
    from `class_subspace`.
    """
    # opposite of a direction: relative to the average text, for all texts share a direction
    relative = candidates - candidates.mean(axis=0)
    relative = relative / np.maximum(np.linalg.norm(relative, axis=1, keepdims=True), 1e-12)
    directions = []
    for place, text in enumerate(span.texts.tolist()):
        q = span.directions[place]
        away = int(np.argmin(relative @ q))
        directions.append(
            _direction(
                head,
                Q,
                q @ Q,
                subspace,
                (pool.texts[text], pool.properties[text], pool.kinds[text], pool.texts[away]),
            )
        )
    return directions


def text_directions(head: str, Q: Floats, texts: Sequence[str], vectors: Floats, subspace: Float64s) -> list[Direction]:
    """The directions of texts that a user names in one head (S0).

    Q: (dh, D) basis of the head; vectors: (n, D) unit vectors of the texts; subspace: (r, D).
    """
    return [
        _direction(head, Q, vector.astype(np.float64), subspace, (text, "user", "unspecified", f"not {text}"))
        for text, vector in zip(texts, vectors, strict=True)
    ]


def _direction(head: str, Q: Floats, u: Float64s, subspace: Float64s, words: tuple[str, str, str, str]) -> Direction:
    """u (D,) with and without its class part; words are text, property, kind and opposite."""
    # (I - P_W) u: projected out, because conditioning on the class score is biased (trap 4)
    free = u - subspace.T @ (subspace @ u)
    outside = float(np.linalg.norm(free))
    text, name, kind, opposite = words
    return Direction(
        head=head,
        text=text,
        property=name,
        kind=kind,
        opposite=opposite,
        plain=Q.astype(np.float64) @ u,
        class_free=Q.astype(np.float64) @ (free / max(outside, 1e-12)),
        outside=outside,
    )


def all_directions(
    moments: Moments,
    basis: Basis,
    heads: Sequence[str],
    pool: TextPool,
    pool_vectors: Floats,
    classes: Floats,
    *,
    per_head: int,
    user: Sequence[str] = (),
    user_vectors: Floats | None = None,
) -> tuple[dict[str, list[Direction]], list[Direction]]:
    """The directions to test, by head, and those that cannot be told from a class prompt (S0).

    pool_vectors: (T, D) of the pool's texts; classes: (C, D) class vectors; per_head: texts of each head's TextSpan;
    user_vectors: (U, D) of the `user` texts. All are unit vectors.
    """
    subspace = class_subspace(classes)
    tested: dict[str, list[Direction]] = {}
    dropped: list[Direction] = []
    wide = pool_vectors.astype(np.float64)  # once for all heads
    for head in heads:
        Q = basis.Q(head)
        candidates = fold(Q, wide)
        span = textspan(moments.covariance(head), candidates, per_head)
        candidate_directions = head_directions(head, Q, span, candidates, pool, subspace)
        if user and user_vectors is not None:
            candidate_directions += text_directions(head, Q, user, user_vectors, subspace)
        tested[head] = [direction for direction in candidate_directions if direction.outside >= INDISTINGUISHABLE]
        dropped += [direction for direction in candidate_directions if direction.outside < INDISTINGUISHABLE]
    return tested, dropped
