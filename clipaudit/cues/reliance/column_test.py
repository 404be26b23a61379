"""Is it the column at all? Step-down max-T over findings and answerers with columns permuted (S10c ii, S10d)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipaudit.arrays import Bools, Float64s, Ints
from clipaudit.cues.reliance.drawn_columns import DrawnColumns, drawn_columns, sorted_rows
from clipaudit.cues.reliance.head_choice import MEAN_FALL, choose_heads
from clipaudit.cues.reliance.images import CueColumn, ScoredImages, cue_cells
from clipaudit.cues.reliance.specific_effect import Fits
from clipaudit.cues.statistics.multiplicity import tie_limit


@dataclass(frozen=True, eq=False, kw_only=True)
class DrawnStatistics:
    """One cue and answerer under R versions of the column, the true one first."""

    gap: Float64s
    """(R,)"""
    gap_t: Float64s
    """(R,) gap / its standard error."""
    did: Float64s
    """(R,) fall of the gap with the heads that each version chooses; 0 without heads."""
    did_t: Float64s
    pointed_t: Float64s
    """(R,) the same inside the classes that have the cue, heads chosen whatever the group mean loses."""
    chosen: Bools
    """(F, R, P) heads that each version chooses by each fit."""
    chosen_freely: Bools
    """(F, R, P) the same whatever the group mean loses."""


def drawn_statistics(
    images: ScoredImages, cue: CueColumn, places: Ints, right: Bools, fits: Fits | None
) -> DrawnStatistics:
    """Gap and DiD of every version of a column, by places (R, n); heads are chosen anew for each, both ways round.

    right (n,) the answerer's answers; fits of the same images, None for answerers whose heads cannot be taken out.
    """
    # images of classes that cannot be compared have no weight in anything
    inside = cue_cells(images, cue).comparable[images.truth]
    rows = sorted_rows(images, inside if cue.scored is None else inside & cue.scored)
    heads = 0 if fits is None else len(fits.removal.heads)
    nothing, none = np.zeros(len(places)), np.zeros((0 if fits is None else fits.count, len(places), heads), np.bool_)
    if not len(rows):
        return DrawnStatistics(
            gap=nothing, gap_t=nothing, did=nothing, did_t=nothing, pointed_t=nothing, chosen=none, chosen_freely=none
        )
    whole = drawn_columns(images, cue, places, rows)
    base = right[rows].astype(np.float32)
    gap = (whole.difference() @ base).astype(np.float64)
    gap_t = _ratio(gap, whole.errors(base))
    if fits is None:
        return DrawnStatistics(
            gap=gap, gap_t=gap_t, did=nothing, did_t=nothing, pointed_t=nothing, chosen=none, chosen_freely=none
        )
    limited, freely = _chosen(images, cue, places, fits, inside)
    did, did_t = _fall(whole, whole.shares, rows, fits, limited, right)
    _, pointed_t = _fall(whole, whole.of_pointed, rows, fits, freely, right)
    return DrawnStatistics(
        gap=gap,
        gap_t=gap_t,
        did=did,
        did_t=did_t,
        pointed_t=pointed_t,
        chosen=limited,
        chosen_freely=freely,
    )


def _chosen(images: ScoredImages, cue: CueColumn, places: Ints, fits: Fits, inside: Bools) -> tuple[Bools, Bools]:
    """(F, R, P) heads chosen by each fit from the images inside (n,), within the group mean's limit and without it."""
    shape = (fits.count, len(places), len(fits.removal.heads))
    limited, freely = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    for f, choosing in enumerate(fits.choosing):
        rows = sorted_rows(images, choosing & inside)
        if len(rows):
            drawn, part = drawn_columns(images, cue, places, rows), fits.tried.on(rows)
            limited[f] = choose_heads(drawn, part, MEAN_FALL)
            freely[f] = choose_heads(drawn, part, None)
    return limited, freely


def _fall(
    whole: DrawnColumns, shares: Float64s, rows: Ints, fits: Fits, chosen: Bools, right: Bools
) -> tuple[Float64s, Float64s]:
    """(R,) fall of the gap with the chosen heads (F, R, P) taken out, all fits pooled, and its t."""
    R = chosen.shape[1]
    change = np.zeros((R, len(rows)), np.float32)
    for f in range(fits.count):
        scored = np.flatnonzero(fits.fold[rows] == f)
        part = fits.removal.take(rows[scored])
        # answers depend on the heads alone: versions that chose the same share them
        masks, version = np.unique(chosen[f], axis=0, return_inverse=True)
        rights = part.sets_without(masks)
        change[:, scored] = (rights.astype(np.float32) - right[rows[scored]])[version.ravel()]
    # aligned minus conflicting change, sign turned: what conflicting images gain beyond aligned ones
    did = -(whole.difference(shares) * change).sum(axis=1).astype(np.float64)
    return did, _ratio(did, whole.errors(change, shares, floored=True))


def _ratio(values: Float64s, errors: Float64s) -> Float64s:
    ratios: Float64s = np.where(errors > 1e-12, values / np.maximum(errors, 1e-12), 0.0)
    return ratios


def step_down(statistics: Float64s) -> Float64s:
    """(M,) one-sided p-values adjusted for M tests at once, from statistics (R, M), the true ones in row 0.

    Westfall and Young's (1993) step-down max-T: tests in the order of their size, each against the largest statistic of
    those not yet decided, and never below the p-value of a larger one. Strong control of the family-wise error.
    """
    true, drawn = statistics[0], statistics[1:]
    order = np.argsort(-true, kind="stable")
    # largest over this and all smaller tests, from the smallest up
    largest = np.maximum.accumulate(drawn[:, order[::-1]], axis=1)[:, ::-1]
    raw = (1 + (largest >= tie_limit(true[order])).sum(axis=0)) / (1 + len(drawn))
    adjusted = np.empty(len(true))
    adjusted[order] = np.maximum.accumulate(raw)
    return adjusted


def single_step(statistics: Float64s) -> Float64s:
    """(R, M) p-values of every version's statistics (R, M) against the largest ones of all versions (max-T)."""
    largest = np.sort(statistics.max(axis=1))
    above = len(largest) - np.searchsorted(largest, tie_limit(statistics), side="left")
    p: Float64s = np.maximum(above, 1) / len(largest)
    return p


def all_together(parts: Sequence[Sequence[Float64s]]) -> Float64s:
    """(R, F * A) one statistic of F findings x A answerers as columns."""
    return np.stack([statistic for finding in parts for statistic in finding], axis=1)
