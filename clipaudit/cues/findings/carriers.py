"""Which heads carry a text cue, chosen on one half of the images over a pseudo-attribute's groups (S7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Bools, Float32s, Float64s, Ints
from clipaudit.cues.measure.answers import Answers
from clipaudit.cues.statistics.groups import Conflict, Grouping, conflict_of, large_groups
from clipaudit.cues.statistics.intervals import Paired
from clipaudit.cues.statistics.right import right_answers

MAX_HEADS: Final = 12
_GAIN: Final = 0.001
"""A further head must bring at least a tenth of a point on the discovery half."""
_CANDIDATES: Final = 16


@dataclass(frozen=True, eq=False, kw_only=True)
class CueGroups:
    """A cue and the groups that it makes of the images of `Answers`."""

    pointed: Bools
    """(C,) classes that have the cue, as rows of the class vectors."""
    value: int
    """Of the grouping's values."""
    grouping: Grouping
    """Of two groups of classes: 0 those that lack the cue, 1 those that have it."""


# -- which heads -------------------------------------------------------------------------------------------------------


def margin_effects(answers: Answers, cue: CueGroups, rows: Bools) -> Float64s:
    """(P,) how much further each head pushes towards the classes that have the cue when it is there, in logits.

    The mean over both groups of classes of: margin of those classes over the others with the cue minus without it.
    """
    V = len(cue.grouping.values)
    logits = answers.head_logits[:, rows]
    margins = logits[:, :, cue.pointed].mean(axis=2) - logits[:, :, ~cue.pointed].mean(axis=2)
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
    """Heads that carry the cue, from the images of a mask `rows` (n,) alone.

    First greedily those whose removal helps the conflict groups and the mean over all groups, each the one that helps
    most, until none helps by a tenth of a point. If that does not clearly help even here, the heads that push most
    towards the class when the cue is there: whether they are needed is then for the other half to say.
    """
    effects = margin_effects(answers, cue, rows)
    places = [place for place, head in enumerate(answers.heads) if allowed is None or head in allowed]
    likely = [place for place in sorted(places, key=lambda place: -effects[place]) if effects[place] > 0]
    parts = cue.grouping.take(rows)
    conflict = conflict_of(parts, 1, cue.value)
    chosen = _greedy(answers, parts, conflict, rows, likely[:_CANDIDATES])
    if chosen and conflict.groups:
        heads = [answers.heads[place] for place in chosen]
        change = answers.right(answers.without(heads)).astype(np.int64) - answers.right(answers.base)
        paired = Paired(change=change[rows], group=parts.group, cluster=answers.facts.cluster[rows])
        # on the half that chose them, so too good: enough to drop heads that do not help even there
        low = paired.mean(conflict.groups, conflict.weights).low
        if low is not None and low > 0:
            return tuple(heads)
    return tuple(answers.heads[place] for place in _carriers(effects, likely))


def _carriers(effects: Float64s, likely: Sequence[int]) -> list[int]:
    """The heads with half of what all heads push together."""
    total = float(effects[list(likely)].sum()) if likely else 0.0
    share = np.cumsum(effects[list(likely)]) if likely else np.empty(0)
    return list(likely[: min(MAX_HEADS, int(np.searchsorted(share, total / 2)) + 1)])


def _greedy(answers: Answers, parts: Grouping, conflict: Conflict, rows: Bools, likely: Sequence[int]) -> list[int]:
    """Heads in the order of choice, as few as are within a standard error of the best number of them."""
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
    change = right_answers(logits, answers.truth[rows]).astype(np.int64) - answers.right(answers.base)[rows]
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
        right = parts.right(right_answers(logits, truth)) / np.maximum(sizes, 1)
        # both terms, so that no gain on the conflict pays for a model that is broken elsewhere (trap 26)
        total = float(right[large].mean()) if large else 0.0
        return total + (float((right[groups] * weights).sum() / weights.sum()) if groups else 0.0)

    return measure
