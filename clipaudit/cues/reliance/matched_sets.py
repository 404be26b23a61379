"""Random sets of heads that are like the chosen ones and do not see the cue (S10c i)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float32s, Float64s, Ints

LEAST_SETS: Final = 50
"""With fewer distinct sets the comparison says nothing: "not testable"."""
_DRAWS: Final = 4000


@dataclass(frozen=True, eq=False, kw_only=True)
class MatchedSets:
    """Control sets of one chosen set of heads."""

    masks: Bools
    """(S, P); S is 0 where fewer than 50 distinct sets remain."""
    matched: str
    """What they share with the chosen set, in words."""


def matched_sets(chosen: Bools, layers: Ints, seeing: Bools, spread: Float64s, count: int, seed: int) -> MatchedSets:
    """At most `count` random sets of as many heads as `chosen` (P,), of the same layers where 50 such sets exist.

    seeing (P,): heads that see the cue, which no control holds; spread (P, P): covariance of what heads add to the
    class margin. Sets whose margin variance is within a factor of two of the chosen set's are taken, or the 50 closest.
    """
    pool = ~seeing
    rng = np.random.default_rng([seed, 11])
    wanted = int(chosen.sum())
    if not wanted or int(pool.sum()) < wanted:
        return MatchedSets(masks=np.empty((0, len(chosen)), np.bool_), matched="too few heads do not see the cue")
    for same_layers in (True, False):
        masks = _drawn(chosen, layers, pool, same_layers, rng)
        # the chosen set is no control of itself
        masks = masks[(masks != chosen).any(axis=1)]
        if len(masks) >= LEAST_SETS:
            near, how = _alike(masks, chosen, spread, count, rng)
            where = "as many heads of each layer" if same_layers else "as many heads of any layer"
            return MatchedSets(masks=near, matched=f"{where} that do not see the cue, {how}")
    return MatchedSets(masks=masks[:0], matched=f"only {len(masks)} sets of heads do not see the cue")


def margin_spread(heads: Float32s) -> Float64s:
    """(P, P) covariance over images of what heads add to the true class's margin over the mean of the others, from what
    they add to the others relative to the true class (P, C - 1, n)."""
    margins = -heads.mean(axis=1)
    covariance: Float64s = np.atleast_2d(np.cov(margins.astype(np.float64), bias=True))
    return covariance.reshape(len(heads), len(heads))


def _drawn(chosen: Bools, layers: Ints, pool: Bools, same_layers: bool, rng: np.random.Generator) -> Bools:
    """(S, P) distinct random sets from the pool; none where a layer has too few heads left."""
    masks = np.zeros((_DRAWS, len(chosen)), np.bool_)
    strata = layers if same_layers else np.zeros(len(layers), np.int64)
    for level in np.unique(strata[chosen]):
        places, wanted = np.flatnonzero(pool & (strata == level)), int((chosen & (strata == level)).sum())
        if len(places) < wanted:
            return masks[:0]
        # argsort of random numbers is a random permutation: the heads with the first ranks are drawn
        ranks = rng.random((_DRAWS, len(places))).argsort(axis=1)
        masks[:, places] = ranks < wanted
    distinct: Bools = np.unique(masks, axis=0)
    return distinct


def _alike(masks: Bools, chosen: Bools, spread: Float64s, count: int, rng: np.random.Generator) -> tuple[Bools, str]:
    """Sets whose margin variance is like the chosen one's, and in which way."""
    sets = masks.astype(np.float64)
    # variance of what a set's heads add together: 1' spread 1 over its heads
    variance = np.einsum("sp,pq,sq->s", sets, spread, sets)
    own = float(chosen.astype(np.float64) @ spread @ chosen)
    ratio = np.abs(np.log(np.maximum(variance, 1e-300) / max(own, 1e-300)))
    near = np.flatnonzero(ratio <= np.log(2.0))
    if len(near) >= LEAST_SETS:
        places = np.sort(rng.permutation(near)[:count])
        return masks[places], "class margin variance within a factor of 2"
    places = np.sort(np.argsort(ratio, kind="stable")[:LEAST_SETS])
    return masks[places], f"the {LEAST_SETS} closest in class margin variance"
