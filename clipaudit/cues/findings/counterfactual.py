"""What CLIP would answer without a cue: heads chosen on one half, scored on the other, with matched controls (S10).

Letters: n images, P heads, C classes, S sets of heads. Changes are differences of accuracies, -1..1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from clipaudit.arrays import Bools, Float32s, Float64s, Ints
from clipaudit.cues.measure.answers import Answers
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.result.reliance import Arm, DosePoint, PairedTest, RandomControl
from clipaudit.cues.statistics.groups import Conflict, Grouping, conflict_of, large_groups, worst_group
from clipaudit.cues.statistics.intervals import COUNT_ONLY, Paired, average_change, group_mean, mcnemar
from clipaudit.cues.statistics.intervals import accuracy as share
from clipaudit.heads.ablation import random_sets
from clipaudit.schema import parse_head_label

ALPHAS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Parts of the heads' deviations that are taken out for the dose response."""
MAX_HEADS: Final = 12
"""Heads of a cue, at most."""
_GAIN: Final = 0.001
"""A further head must bring at least a tenth of a point on the discovery half."""
_DRAWS: Final = 4000
"""Random sets drawn, from which those with a similar variance are taken."""
_ENOUGH_SETS: Final = 200
"""With fewer sets of the same layers, those of others count too: the 11 heads beside one give no p-value below .05."""
_CANDIDATES: Final = 16
"""Heads that push most with the cue, among which the search chooses."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CueGroups:
    """A cue and the groups that it makes of the images of `Answers`."""

    k: int
    """Class, as a row of the class vectors."""
    value: int
    """Place among the grouping's values."""
    grouping: Grouping


# -- which heads -------------------------------------------------------------------------------------------------------


def margin_effects(answers: Answers, cue: CueGroups, rows: Bools) -> Float64s:
    """(P,) float64: how much further each head pushes towards class k with the cue than without it, in logits.

    The mean over classes of the difference inside the class; the push is what the head adds to the margin of class k
    over the mean of the others. rows: (n,) mask.
    """
    others = [c for c in range(answers.head_logits.shape[2]) if c != cue.k]
    V = len(cue.grouping.values)
    margins = answers.head_logits[:, rows, cue.k] - answers.head_logits[:, rows][:, :, others].mean(axis=2)
    group = cue.grouping.group[rows]
    effects = []
    for k in range(len(cue.grouping.classes)):
        inside = (group >= 0) & (group // V == k)
        having = inside & (group % V == cue.value)
        lacking = inside & (group % V != cue.value)
        if min(int(having.sum()), int(lacking.sum())) >= 5:
            effects.append(margins[:, having].mean(axis=1) - margins[:, lacking].mean(axis=1))
    if not effects:
        return np.zeros(len(answers.heads))
    mean: Float64s = np.stack(effects).astype(np.float64).mean(axis=0)
    return mean


def choose_heads(
    answers: Answers, cue: CueGroups, rows: Bools, allowed: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Heads that carry the cue, chosen from the images of a mask `rows` (n,) among the heads `allowed` (S10).

    First greedily those whose removal helps the conflict groups and the mean over all groups, each the one that helps
    most, until none helps by a tenth of a point. If that has no certain effect even on these images, the heads that
    push most towards the class with the cue: the other half then shows whether they are needed.
    """
    effects = margin_effects(answers, cue, rows)
    places = [place for place, head in enumerate(answers.heads) if allowed is None or head in allowed]
    likely = [place for place in sorted(places, key=lambda place: -effects[place]) if effects[place] > 0]
    parts = cue.grouping.take(rows)
    conflict = conflict_of(parts, cue.k, cue.value)
    chosen = _greedy(answers, parts, conflict, rows, likely[:_CANDIDATES])
    if chosen and conflict.groups:
        heads = [answers.heads[place] for place in chosen]
        change = answers.right(answers.without(heads)).astype(np.int64) - answers.right(answers.base)
        paired = Paired(change=change[rows], group=parts.group, cluster=answers.facts.cluster[rows])
        low = paired.mean(conflict.groups, conflict.weights).low
        if low is not None and low > 0:
            return tuple(heads)
    return tuple(answers.heads[place] for place in _carriers(effects, likely))


def _carriers(effects: Float64s, likely: Sequence[int]) -> list[int]:
    """The fewest heads, those that push most first, that have half of what all push together."""
    total = float(effects[list(likely)].sum()) if likely else 0.0
    share = np.cumsum(effects[list(likely)]) if likely else np.empty(0)
    return list(likely[: min(MAX_HEADS, int(np.searchsorted(share, total / 2)) + 1)])


def _greedy(answers: Answers, parts: Grouping, conflict: Conflict, rows: Bools, likely: Sequence[int]) -> list[int]:
    """Heads in the order of choice: the fewest whose objective is within a standard error of the largest."""
    measure = _objective(parts, conflict, answers.truth[rows])
    remaining, chosen = list(likely), list[int]()
    logits = answers.base[rows].copy()
    values = [measure(logits)]
    while remaining and len(chosen) < min(MAX_HEADS, max(1, len(answers.heads) // 2)):
        gains = [measure(logits - answers.head_logits[place][rows]) for place in remaining]
        first = int(np.argmax(gains))
        if gains[first] < values[-1] + _GAIN:
            break
        values.append(gains[first])
        chosen.append(remaining.pop(first))
        logits -= answers.head_logits[chosen[-1]][rows]
    change = (logits.argmax(axis=1) == answers.truth[rows]).astype(np.int64) - answers.right(answers.base)[rows]
    paired = Paired(change=change, group=parts.group, cluster=answers.facts.cluster[rows])
    spread = paired.mean(conflict.groups, conflict.weights) if conflict.groups else None
    # a 95 % interval is about four standard errors wide
    error = 0.0 if spread is None or spread.high is None or spread.low is None else (spread.high - spread.low) / 4
    fewest = next(count for count, value in enumerate(values) if value >= values[-1] - error)
    return chosen[:fewest]


def _objective(parts: Grouping, conflict: Conflict, truth: Ints) -> Callable[[Float32s], float]:
    """Mean accuracy over the conflict plus mean accuracy over all groups of enough images, from (n, C) logits."""
    sizes = parts.sizes()
    large = large_groups(parts, 5)
    groups, weights = list(conflict.groups), np.array(conflict.weights)

    def measure(logits: Float32s) -> float:
        right = parts.right(logits.argmax(axis=1) == truth) / np.maximum(sizes, 1)
        total = float(right[large].mean()) if large else 0.0
        return total + (float((right[groups] * weights).sum() / weights.sum()) if groups else 0.0)

    return measure


# -- arms --------------------------------------------------------------------------------------------------------------


def arm(
    name: Literal["whole heads", "direction only"],
    answers: Answers,
    cue: CueGroups,
    heads: Sequence[str],
    directions: Mapping[str, Float64s],
    rows: Bools,
    discovery: Bools,
    *,
    n_min: int,
    sets: int,
    seed: int,
    level: float = 0.95,
) -> Arm:
    """One way to take the cue out, scored on `rows`; the worst group is fixed on `discovery` (S10).

    directions: (dh,) unit direction by head, for `direction only`. rows, discovery: (n,) masks. n_min: images that a
    group needs to be the worst. sets: random head sets of the control. level: of the conflict's interval.
    """

    def logits_without(alpha: float) -> Float32s:
        if name == "whole heads":
            return answers.without(heads, alpha)
        return answers.without_directions({head: directions[head] for head in heads if head in directions}, alpha)

    parts = cue.grouping.take(rows)
    cluster = answers.facts.cluster[rows]
    before, after = answers.right(answers.base), answers.right(logits_without(1.0))
    paired = Paired(change=(after.astype(np.int64) - before)[rows], group=parts.group, cluster=cluster)
    conflict = conflict_of(parts, cue.k, cue.value)
    worst = worst_group(cue.grouping.take(discovery), before[discovery], n_min)
    counted_groups = [group for group in range(parts.count) if parts.sizes()[group] >= COUNT_ONLY]
    doses = [(alpha, answers.right(logits_without(alpha))[rows]) for alpha in ALPHAS]
    changed = paired.mean(conflict.groups, conflict.weights, level) if conflict.groups else None
    return Arm(
        name=name,
        heads=tuple(heads),
        delta_conflict=changed,
        delta_group_mean=paired.mean(counted_groups) if counted_groups else None,
        delta_worst=None if worst is None else paired.of_group(worst),
        worst_group=None if worst is None else parts.name(worst),
        delta_plain=average_change((after.astype(np.int64) - before)[rows], cluster),
        tests=tuple(_tests(parts, paired, conflict)),
        control=_control(answers, parts, conflict, heads, rows, changed, sets, seed) if name == "whole heads" else None,
        dose=tuple(_dose(alpha, right, parts, conflict, worst) for alpha, right in doses),
    )


def _tests(parts: Grouping, paired: Paired, conflict: Conflict) -> list[PairedTest]:
    tests = []
    for group in np.flatnonzero(parts.sizes() > 0).tolist():
        change = paired.change[parts.group == group]
        fixed, broken = int((change > 0).sum()), int((change < 0).sum())
        k, v = divmod(group, len(parts.values))
        tests.append(
            PairedTest(
                class_name=parts.classes[k],
                value=parts.values[v],
                conflict=group in conflict.groups,
                n=len(change),
                fixed=fixed,
                broken=broken,
                p=mcnemar(fixed, broken),
                change=paired.of_group(group),
            )
        )
    return tests


def _dose(alpha: float, good: Bools, parts: Grouping, conflict: Conflict, worst: int | None) -> DosePoint:
    sizes, right = parts.sizes(), parts.right(good)
    own = list(conflict.groups)
    return DosePoint(
        alpha=alpha,
        conflict=_weighted_share(right, sizes, conflict) if own else None,
        group_mean=group_mean(right, np.where(sizes >= COUNT_ONLY, sizes, 0)),
        worst=None if worst is None or not sizes[worst] else share(int(right[worst]), int(sizes[worst])),
        plain_average=share(int(good.sum()), len(good)),
    )


def _weighted_share(right: Ints, sizes: Ints, conflict: Conflict) -> Estimate:
    """Accuracy over the conflict, both sides equally, from right answers and images (G,) of each group."""
    groups, weights = list(conflict.groups), np.array(conflict.weights)
    weights = weights / weights.sum()
    n = sizes[groups].astype(np.float64)
    value = float((weights * right[groups] / n).sum())
    shrunk = (right[groups] + 1) / (n + 2)  # a share of 0 or 1 has no variance, which is too sure
    half = 1.96 * float(np.sqrt((weights**2 * shrunk * (1 - shrunk) / n).sum()))
    return Estimate(value=value, low=max(0.0, value - half), high=min(1.0, value + half), n=int(n.sum()))


# -- random controls ---------------------------------------------------------------------------------------------------


def _control(
    answers: Answers,
    parts: Grouping,
    conflict: Conflict,
    heads: Sequence[str],
    rows: Bools,
    observed: Estimate | None,
    count: int,
    seed: int,
) -> RandomControl | None:
    """The conflict's change among those of up to `count` random head sets alike in margin variance (S10)."""
    if not heads or observed is None or observed.value is None:
        return None
    chosen = np.array([head in set(heads) for head in answers.heads])
    drawn, origin = other_sets(answers.heads, heads, seed)
    if not len(drawn):
        return None
    spread = margin_spread(answers)
    target_variance = _variance(chosen[None].astype(np.float64), spread)[0]
    ratio = np.abs(
        np.log(np.maximum(_variance(drawn.astype(np.float64), spread), 1e-300) / max(target_variance, 1e-300))
    )
    # heads that move margins more would change answers more, cue or not: sets must move them alike
    similar = np.flatnonzero(ratio <= np.log(2))
    enough = len(similar) >= count
    order = np.random.default_rng([seed, 11]).permutation(similar) if enough else np.argsort(ratio, kind="stable")
    matched_sets = order[:count]
    changes = set_changes(answers, parts, conflict, drawn[np.sort(matched_sets)], rows)
    counts, edges = np.histogram(changes, bins=30)
    rule = "class margin variance within a factor of 2" if enough else "the closest in class margin variance"
    if not enough and len(matched_sets) == len(drawn):
        rule = "all that there are, alike in class margin variance or not"
    return RandomControl(
        observed=observed.value,
        p=(1 + int((changes >= observed.value - 1e-9).sum())) / (1 + len(changes)),
        mean=float(changes.mean()),
        deviation=float(changes.std()),
        sets=len(changes),
        different_sets=different_sets(answers.heads, heads),
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(int(n) for n in counts),
        matched=f"{origin}, {rule}",
    )


def margin_spread(answers: Answers) -> Float64s:
    """(P, P) covariance over images of what heads add to the margin of the true class over the mean of the others."""
    P, n, C = answers.head_logits.shape
    own = answers.head_logits[:, np.arange(n), answers.truth]
    margins = own - (answers.head_logits.sum(axis=2) - own) / max(C - 1, 1)
    covariance: Float64s = np.atleast_2d(np.cov(margins.astype(np.float64), bias=True))
    return covariance.reshape(P, P)


def _variance(sets: Float64s, spread: Float64s) -> Float64s:
    """(S,) margin variance of each set (S, P) of heads: 1' C 1 over its members."""
    variance: Float64s = np.einsum("sp,pq,sq->s", sets, spread, sets)
    return variance


def set_changes(answers: Answers, parts: Grouping, conflict: Conflict, sets: Bools, rows: Bools) -> Float64s:
    """(S,) float64 change of the conflict's accuracy when each set (S, P), a mask, of heads is at its means.

    rows: (n,) mask of the scored images; parts: their groups.
    """
    inside = np.flatnonzero(rows)[conflict.rows(parts.group)]
    group = parts.group[conflict.rows(parts.group)]
    weight = np.zeros(parts.count)
    weight[list(conflict.groups)] = np.array(conflict.weights) / sum(conflict.weights)
    # the weighted mean of group accuracies as one weight an image
    per_row = (weight / np.maximum(np.bincount(group, minlength=parts.count), 1))[group]
    base, truth = answers.base[inside], answers.truth[inside]
    flat = answers.head_logits[:, inside].reshape(len(answers.heads), -1)
    before = base.argmax(axis=1) == truth
    changes = np.empty(len(sets))
    step = max(1, 2**25 // max(flat.shape[1], 1))  # sets at a time: logits of at most 128 MiB
    for start in range(0, len(sets), step):
        piece = sets[start : start + step].astype(np.float32)
        logits = base - (piece @ flat).reshape(len(piece), *base.shape)
        good = logits.argmax(axis=2) == truth
        changes[start : start + step] = (good.astype(np.float64) - before) @ per_row
    return changes


def other_sets(heads: Sequence[str], chosen: Sequence[str], seed: int) -> tuple[Bools, str]:
    """(S, P) masks of random sets of as many `heads` as are `chosen`, and what they have in common, in words (S10).

    As many of each layer as are chosen; where fewer than 200 such sets exist, of all layers together. Each set comes
    once, and the chosen one is left out.
    """
    mask = np.array([head in set(chosen) for head in heads])
    if _same_layers(heads, chosen) >= _ENOUGH_SETS:
        drawn, where = random_sets(heads, chosen, _DRAWS, seed), "as many heads of each layer"
    else:
        order = np.random.default_rng(seed).random((_DRAWS, len(heads))).argsort(axis=1)
        drawn, where = order < int(mask.sum()), "as many heads of any layer, for the cue's own have too few"
    # small models have few sets: they are drawn many times, and so is the chosen one, which is no control of itself
    drawn = np.unique(drawn, axis=0)
    return drawn[(drawn != mask).any(axis=1)], where


def different_sets(heads: Sequence[str], chosen: Sequence[str]) -> int:
    """How many sets there are to draw from, the chosen one included."""
    same = _same_layers(heads, chosen)
    return same if same >= _ENOUGH_SETS else math.comb(len(heads), len(chosen))


def _same_layers(heads: Sequence[str], chosen: Sequence[str]) -> int:
    """How many sets have as many heads of each layer."""
    layers = [parse_head_label(head)[0] for head in heads]
    chosen_layers = [parse_head_label(head)[0] for head in chosen]
    return math.prod(math.comb(layers.count(layer), chosen_layers.count(layer)) for layer in set(chosen_layers))
