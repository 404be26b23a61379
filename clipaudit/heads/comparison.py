"""Two runs of one model, head by head: moments, texts and tests put together, and their JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from clipaudit.arrays import Float64s
from clipaudit.errors import RunMismatch, UsageError
from clipaudit.heads.description import directory_name
from clipaudit.heads.drift import Drift, HeadSample, drift, require_enough
from clipaudit.heads.texts.fit import TextVectors, fit_remark
from clipaudit.heads.texts.pool import TextPool
from clipaudit.heads.textspan import fold
from clipaudit.run.moments import Moments
from clipaudit.run.reader import Run
from clipaudit.run.rows import ALL, Rows, moments_over, require_rows
from clipaudit.statistics import benjamini_hochberg

FOLDER: Final = "compare"
FILE: Final = "compare.json"
ALPHA: Final = 0.05
_WORDS: Final = 10
"""Texts written of each head, towards and away."""


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadDrift:
    """One head in both runs."""

    head: str
    drift: Drift
    q: float
    """Of its mean, Benjamini-Hochberg over heads."""
    spread_q: float
    """Of its spread, likewise."""

    @property
    def moved(self) -> bool:
        """Its mean differs at a false discovery rate of ALPHA."""
        return self.q <= ALPHA


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """All heads that both runs store."""

    before: Run = field(repr=False)
    after: Run = field(repr=False)
    pool: TextPool
    asked: tuple[Rows, Rows]
    """Which rows of each run were asked for."""
    rows: tuple[int, int]
    """How many rows those are."""
    heads: tuple[HeadDrift, ...]
    """Those whose means differ first, then by the size of the effect."""
    left_out: tuple[str, ...]
    """Heads that only one run stores."""
    texts_remark: str | None = None
    """That few of the texts fit the model, in a sentence; None when they do."""

    @property
    def name(self) -> str:
        """Of the directory in the second run: of the first run, and which rows."""
        before, after = map(directory_name, self.asked)
        rows = before if before == after else f"{before}-{after}"
        return f"{FOLDER}/{self.before.manifest.fingerprint[:16]}/{rows}"


def compare(
    before: Run,
    after: Run,
    pool: TextPool,
    texts: TextVectors,
    rows: tuple[Rows, Rows] = (ALL, ALL),
    on_head: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Every head of `after` against `before`; `on_head(done, total)` after each.

    rows: which of each run. RunMismatch when the runs are of different models; UsageError when they share no head or
    have too few rows. Tests and intervals as in `heads.drift`, with Benjamini and Hochberg's correction over heads.
    """
    pool.require(2)
    shared = _shared_heads(before, after)
    moments = tuple(moments_over(run, chosen) for run, chosen in zip((before, after), rows, strict=True))
    for run, chosen, sample in zip((before, after), rows, moments, strict=True):
        require_rows(run, chosen, sample.count)
    require_enough(before.spec.head_dim, *(sample.count for sample in moments))  # before thousands of texts are encoded
    vectors, bases = texts.vectors(pool.texts), (before.basis(), after.basis())
    drifts = []
    for done, head in enumerate(shared, 1):
        Q, other = (basis.Q(head).astype(np.float64) for basis in bases)
        # two machines may have found different orthonormal bases of the same head: y_after -> (Q Q_after') y_after
        turn = None if np.array_equal(Q, other) else Q @ other.T
        drifts.append(drift(_sample(moments[0], head), _sample(moments[1], head, turn), fold(Q, vectors)))
        on_head(done, len(shared))
    return Comparison(
        before=before,
        after=after,
        pool=pool,
        asked=rows,
        rows=(moments[0].count, moments[1].count),
        heads=_ordered(shared, drifts),
        left_out=tuple(sorted({*before.head_labels} ^ {*after.head_labels})),
        texts_remark=fit_remark(pool, vectors, texts),
    )


def _shared_heads(before: Run, after: Run) -> list[str]:
    models = [str(run.manifest.model["fingerprint"]) for run in (before, after)]
    if models[0] != models[1]:
        raise RunMismatch(
            f"the runs at {before.directory.url} (fingerprint {models[0]}) and {after.directory.url} ({models[1]}) are"
            " of different models, whose heads have nothing in common"
        )
    shared = [head for head in before.head_labels if head in after.head_labels]
    if not shared:
        raise UsageError(f"the runs at {before.directory.url} and {after.directory.url} store no head in common")
    return shared


def _sample(moments: Moments, head: str, turn: Float64s | None = None) -> HeadSample:
    """A head's moments, in other coordinates of the same space when `turn` (dh, dh) is given."""
    mean, covariance = moments.mean(head), moments.covariance(head)
    # y -> R y: mean R m, covariance R S R'
    if turn is not None:
        mean, covariance = turn @ mean, turn @ covariance @ turn.T
    return HeadSample(count=moments.count, mean=mean, covariance=covariance)


def _ordered(heads: list[str], drifts: list[Drift]) -> tuple[HeadDrift, ...]:
    q = benjamini_hochberg(np.array([drift.test.p for drift in drifts])).tolist()
    spread_q = benjamini_hochberg(np.array([drift.spread_p for drift in drifts])).tolist()
    moves = [
        HeadDrift(head=head, drift=change, q=mean, spread_q=spread)
        for head, change, mean, spread in zip(heads, drifts, q, spread_q, strict=True)
    ]
    return tuple(sorted(moves, key=lambda move: (not move.moved, -abs(move.drift.effect.value))))


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Plain JSON values: the two runs, and each head's shift, spread and texts."""
    pool = comparison.pool
    return {
        "before": _run_json(comparison.before, comparison.asked[0], comparison.rows[0]),
        "after": _run_json(comparison.after, comparison.asked[1], comparison.rows[1]),
        "model": comparison.after.manifest.model["fingerprint"],
        "texts": {"source": pool.source, "count": len(pool), "fingerprint": pool.fingerprint},
        "texts_remark": comparison.texts_remark,
        "q_at_most": ALPHA,
        "heads_left_out": list(comparison.left_out),
        "heads": [_head_json(move, pool) for move in comparison.heads],
    }


def _run_json(run: Run, rows: Rows, count: int) -> dict[str, Any]:
    where = list(rows.where)
    return {"run": run.url, "fingerprint": run.manifest.fingerprint, "where": where, "rows": count}


def _head_json(move: HeadDrift, pool: TextPool) -> dict[str, Any]:
    change = move.drift
    return {
        "head": move.head,
        "moved": move.moved,
        "t2": change.test.t2,
        "p": change.test.p,
        "q": move.q,
        "text": pool.texts[change.text],
        "effect": asdict(change.effect),
        "towards": [_text_json(change, pool, text) for text in change.towards(_WORDS).tolist()],
        "away": [_text_json(change, pool, text) for text in change.away(_WORDS).tolist()],
        "spread": {**asdict(change.spread), "p": change.spread_p, "q": move.spread_q},
    }


def _text_json(change: Drift, pool: TextPool, text: int) -> dict[str, Any]:
    return {"text": pool.texts[text], "property": pool.properties[text], **asdict(change.along(text))}
