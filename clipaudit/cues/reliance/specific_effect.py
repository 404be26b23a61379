"""What taking heads out does to conflicting images beyond what it does to aligned ones, net of controls (S10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal, TypeAlias

import numpy as np

from clipaudit.arrays import Bools, Float32s, Float64s, Ints
from clipaudit.cues.reliance.direction_removal import head_centres, random_directions, without_directions
from clipaudit.cues.reliance.head_choice import TriedHeads
from clipaudit.cues.reliance.head_parts import HeadParts, Removal
from clipaudit.cues.reliance.images import CueCells, RelianceOptions
from clipaudit.cues.reliance.matched_sets import margin_spread, matched_sets
from clipaudit.cues.reliance.score_intervals import score_combination
from clipaudit.cues.reliance.visibility import as_auc, cue_directions, set_visibility
from clipaudit.cues.result.finding_parts import Estimate

Control: TypeAlias = Literal["matched head sets", "random directions", "none"]
FOLDS: Final = 4
"""Heads are chosen on three quarters of the images and scored on the fourth: of a cue at 90 % few images conflict, and
half of them choose badly."""
ALPHAS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
MEAN_LOSS: Final = 0.01
"""What the group mean may lose when the cue is taken out."""


@dataclass(frozen=True, kw_only=True)
class Dose:
    """Accuracies with a part of the heads' deviations taken out."""

    alpha: float
    gap: Estimate
    aligned: Estimate
    conflicting: Estimate


@dataclass(frozen=True, kw_only=True)
class DirectionArm:
    """One direction of each head taken out in place of whole heads; decides nothing."""

    name: Literal["direction only", "text in all heads"]
    did: Estimate
    net_did: Estimate | None
    """Net of random directions of the same variance in the same heads; None without such a control."""


@dataclass(frozen=True, kw_only=True)
class SpecificEffect:
    """S10 of one answerer and cue: heads chosen on all folds but one, scored on that one, all fits pooled."""

    heads: tuple[tuple[str, ...], ...]
    """Chosen by each fit."""
    heads_named: bool
    """Whether heads may be named: their effect was compared with that of other heads."""
    gap_before: Estimate
    gap_after: Estimate
    did: Estimate
    """Change on conflicting minus change on aligned images of the same class: the fall of the gap."""
    net_did: Estimate
    """The same minus the mean of the controls' where that is above 0: the headline."""
    conflict_rise: Estimate
    net_conflict_rise: Estimate
    aligned_change: Estimate
    group_mean_change: Estimate
    did_of_pointed: Estimate
    """Net DiD inside the classes that have the cue alone."""
    did_of_others: Estimate
    """Net DiD inside the classes that lack the cue alone."""
    aligned_change_of_pointed: Estimate
    """Net change of the images with the cue inside those classes."""
    control: Control
    control_sets: int
    """Controls of each fit, at least."""
    control_band: tuple[float, float] | None
    """2.5 % and 97.5 % of the controls' DiD."""
    matched: str
    """What the controls share with the chosen heads, or why there are none."""
    visibility: Estimate
    """AUC of the cue from the chosen heads inside classes, on images that did not choose them."""
    doses: tuple[Dose, ...]
    arms: tuple[DirectionArm, ...]
    after: Bools = field(repr=False, compare=False)
    """(n,) right answers without the heads, each image by the fit that did not choose on it."""

    @property
    def testable(self) -> bool:
        """Whether enough matched sets of heads exist."""
        return self.control == "matched head sets"

    @property
    def specific(self) -> bool:
        """DiD and the rise of the conflicting images above 0, each net of the control, the group mean not down by more
        than a point. Without enough sets of heads the cue's direction must also beat random ones in the same heads."""
        holds = _above(self.did) and _above(self.net_did) and _above(self.net_conflict_rise)
        if not self.testable:
            # whole heads against single directions is an easy contest: like is compared with like, too
            alone = next((arm.net_did for arm in self.arms if arm.name == "direction only"), None)
            holds = holds and alone is not None and _above(alone)
        value = self.group_mean_change.value
        return holds and value is not None and value >= -MEAN_LOSS

    @property
    def hurts_with_the_cue(self) -> bool:
        """Whether images with the cue lose without the heads, and more than those without it, net of the control."""
        high = self.aligned_change_of_pointed.high
        # images that are merely easy lose more in every class: in those that lack the cue it must be the other way
        return _above(self.did_of_pointed) and _above(self.did_of_others) and high is not None and high < 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Fits:
    """Cross-fits: fit f chooses on the images outside fold f, and is scored on those inside."""

    fold: Ints
    """(n,) 0..count-1."""
    count: int
    halves: tuple[Bools, Bools]
    """(n,) masks; folds lie inside them."""
    removal: Removal
    """Of all n images."""

    @cached_property
    def tried(self) -> TriedHeads:
        """Answers without further heads, for the choice."""
        return TriedHeads(self.removal)

    @cached_property
    def choosing(self) -> tuple[Bools, ...]:
        """By fit, (n,) the images that it chooses on."""
        return tuple(self.fold != f for f in range(self.count))

    def take(self, rows: Ints) -> Fits:
        """The same of some images, by places (m,)."""
        halves = (self.halves[0][rows], self.halves[1][rows])
        return Fits(fold=self.fold[rows], count=self.count, halves=halves, removal=self.removal.take(rows))

    def without(self, chosen: Bools, alpha: float = 1.0) -> Bools:
        """(n,) right answers with a part alpha of the heads chosen (count, P) taken out, each image by its own fit."""
        rights = np.empty(len(self.fold), np.bool_)
        for f in range(self.count):
            inside = np.flatnonzero(self.fold == f)
            rights[inside] = self.removal.take(inside).without(chosen[f], alpha)
        return rights


def measure_effect(
    comparison: CueCells,
    fits: Fits,
    parts: HeadParts,
    chosen: Bools,
    scores: Float32s,
    seeing: Bools,
    options: RelianceOptions,
) -> SpecificEffect:
    """Effect of taking out the heads chosen (count, P) by the fits.

    scores (P, n): each head's score of the cue (`visibility.head_scores`); seeing (P,): heads that are no controls.
    """
    before = fits.removal.right
    # every image by the fit whose heads it did not choose
    after = fits.without(chosen)
    masks, matched = _control_masks(fits, parts, chosen, seeing, options)
    direction, random = _direction_rights(comparison, fits, parts, chosen, options)
    control: Control = "matched head sets" if masks is not None else "random directions" if random.size else "none"
    controls = random if masks is None else _set_rights(fits, masks)
    change = after.astype(np.float64) - before
    # what the removal of any such part does to each image (trap 19)
    beside = controls.mean(axis=0) - before if len(controls) else np.zeros(len(before))
    cells, difference = comparison.cells, comparison.difference(comparison.shares)
    rise, aligned = comparison.part(comparison.shares, 1), comparison.part(comparison.shares, 0)
    pointed = comparison.side(True)

    def net(coefficients: Float64s, sign: float = 1.0) -> Estimate:
        # a control that goes the other way would make the effect larger than it is: it counts as none
        against = beside if sign * float(coefficients @ cells.means(beside)) > 0 else np.zeros(len(beside))
        return cells.combine(change - against, coefficients).estimate()

    dids = [-float(difference @ cells.means(right)) for right in controls]
    start = float(difference @ cells.means(before))
    return SpecificEffect(
        heads=tuple(_names(parts, mask) for mask in chosen),
        heads_named=control == "matched head sets",
        gap_before=score_combination(cells, before, difference),
        gap_after=score_combination(cells, after, difference),
        did=cells.combine(change, -difference).estimate(),
        net_did=net(-difference),
        conflict_rise=cells.combine(change, rise).estimate(),
        net_conflict_rise=net(rise),
        aligned_change=cells.combine(change, aligned).estimate(),
        group_mean_change=cells.combine(change, comparison.mean).estimate(),
        did_of_pointed=net(-comparison.difference(pointed)),
        did_of_others=net(-comparison.difference(comparison.side(False))),
        aligned_change_of_pointed=net(comparison.part(pointed, 0), -1.0),
        control=control,
        control_sets=len(controls),
        # gap before less gap without each set: its DiD
        control_band=_band(start + np.array(dids)) if dids else None,
        matched=matched,
        visibility=as_auc(set_visibility(comparison, scores, list(chosen), fits.fold, fits.halves)),
        doses=tuple(_dose(comparison, fits, chosen, alpha) for alpha in ALPHAS),
        arms=_arms(comparison, fits, parts, before, direction, random),
        after=after,
    )


def _names(parts: HeadParts, mask: Bools) -> tuple[str, ...]:
    return tuple(parts.names[head] for head in np.flatnonzero(mask).tolist())


def _control_masks(
    fits: Fits, parts: HeadParts, chosen: Bools, seeing: Bools, options: RelianceOptions
) -> tuple[list[Bools] | None, str]:
    """For each fit control sets (S, P), as many for all; None where one has fewer than 50."""
    drawn = []
    spread = margin_spread(fits.removal.heads)
    for f, mask in enumerate(chosen):
        if not mask.any():
            continue
        sets = matched_sets(mask, parts.layers, seeing, spread, options.random_sets, options.seed + f)
        if not len(sets.masks):
            return None, sets.matched
        drawn.append((f, sets))
    if not drawn:
        return None, "no heads were chosen"
    count = min(len(sets.masks) for _, sets in drawn)
    masks = [np.zeros((count, chosen.shape[1]), np.bool_) for _ in chosen]
    for f, sets in drawn:
        # sets come in the order of their heads: the first of them would all leave out the first heads
        order = np.random.default_rng([options.seed, 37, f]).permutation(len(sets.masks))
        masks[f] = sets.masks[order[:count]]
    return masks, "; ".join(dict.fromkeys(sets.matched for _, sets in drawn))


def _set_rights(fits: Fits, masks: Sequence[Bools]) -> Bools:
    """(S, n) right answers without each control set, the sets s of all fits together."""
    n = fits.removal.base.shape[1]
    rights = np.empty((len(masks[0]), n), np.bool_)
    for f in range(fits.count):
        scored = np.flatnonzero(fits.fold == f)
        rights[:, scored] = fits.removal.take(scored).sets_without(masks[f])
    return rights


def _direction_rights(
    comparison: CueCells, fits: Fits, parts: HeadParts, chosen: Bools, options: RelianceOptions
) -> tuple[Bools, Bools]:
    """(n,) right answers without the cue's direction in the chosen heads, and (S, n) without random ones there."""
    truth, weight = comparison.images.truth, comparison.images.weight
    count = max(50, options.random_sets // 4) if len(parts.coordinates) else 0
    # a fit without chosen heads leaves all answers as they are
    own = fits.removal.right
    random = np.repeat(own[None], count, axis=0)  # (S, n)
    for f in range(fits.count) if count else ():
        choosing, scored = fits.choosing[f], np.flatnonzero(fits.fold == f)
        heads = np.flatnonzero(chosen[f])
        if not len(heads):
            continue
        rng = np.random.default_rng([options.seed, 31, f])
        coordinates = {head: parts.coordinates[head] for head in heads.tolist()}
        centre = head_centres(parts, heads, truth, choosing, weight)
        along = dict(zip(heads.tolist(), cue_directions(comparison, list(coordinates.values()), choosing), strict=True))
        drawn = {
            head: random_directions(values[choosing], along[head], count, rng) for head, values in coordinates.items()
        }
        base, seen, classes = fits.removal.take(scored), parts.take(scored), truth[scored]
        own[scored] = without_directions(base, seen, classes, along, centre)
        for s in range(count):
            picked = {head: directions[s] for head, directions in drawn.items()}
            random[s, scored] = without_directions(base, seen, classes, picked, centre)
    return own, random


def _arms(
    comparison: CueCells, fits: Fits, parts: HeadParts, before: Bools, direction: Bools, random: Bools
) -> tuple[DirectionArm, ...]:
    arms = []
    against = -comparison.difference(comparison.shares)
    start = before.astype(np.float64)
    if len(random):
        did = comparison.cells.combine(direction - start, against).estimate()
        net = comparison.cells.combine(direction - random.mean(axis=0), against).estimate()
        arms.append(DirectionArm(name="direction only", did=did, net_did=net))
    if comparison.cue.text is not None and len(parts.frames):
        right = _text_rights(comparison, fits, parts)
        did = comparison.cells.combine(right - start, against).estimate()
        arms.append(DirectionArm(name="text in all heads", did=did, net_did=None))
    return tuple(arms)


def _text_rights(comparison: CueCells, fits: Fits, parts: HeadParts) -> Bools:
    """(n,) right answers without the cue's text, as each head sees it, in all heads."""
    assert comparison.cue.text is not None
    directions: dict[int, Float64s] = {}
    for head, frame in enumerate(parts.frames):
        # the text in the head's coordinates, Q t
        folded = frame.astype(np.float64) @ comparison.cue.text.astype(np.float64)
        length = float(np.linalg.norm(folded))
        if length > 1e-12:
            directions[head] = folded / length
    images = comparison.images
    everything = np.ones(len(images.truth), np.bool_)
    centre = head_centres(parts, np.array(list(directions), np.int64), images.truth, everything, images.weight)
    return without_directions(fits.removal, parts, images.truth, directions, centre)


def _dose(comparison: CueCells, fits: Fits, chosen: Bools, alpha: float) -> Dose:
    right = fits.without(chosen, alpha)
    return Dose(
        alpha=alpha,
        gap=score_combination(comparison.cells, right, comparison.difference(comparison.shares)),
        aligned=score_combination(comparison.cells, right, comparison.part(comparison.shares, 0), least=0.0),
        conflicting=score_combination(comparison.cells, right, comparison.part(comparison.shares, 1), least=0.0),
    )


def _band(dids: Float64s) -> tuple[float, float]:
    low, high = np.quantile(dids, (0.025, 0.975))
    return float(low), float(high)


def _above(estimate: Estimate) -> bool:
    return estimate.low is not None and estimate.low > 0
