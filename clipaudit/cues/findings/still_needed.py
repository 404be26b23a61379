"""What would decide an undecided finding, or one answerer of it: images, columns, heads, labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipaudit.cues.findings.measured_reliance import ValueCue
from clipaudit.cues.findings.sentences import Words, answerer_words, listed
from clipaudit.cues.findings.verdicts import CellSize, VerdictCase, images_needed, low_limit, needs
from clipaudit.cues.measure.context import Context
from clipaudit.cues.reliance import rules
from clipaudit.cues.reliance.gap import Gap
from clipaudit.cues.result.column_words import column_in_words
from clipaudit.cues.result.finding_parts import Need, Verdict
from clipaudit.statistics import p_text


def missing_of(
    context: Context,
    case: VerdictCase,
    outcome: Verdict,
    cue: ValueCue,
    measured: rules.MeasuredReliance | None,
    words: Words,
) -> tuple[Need, ...]:
    """What would decide a value that one answerer leaves open, images first; empty for what is decided. measured: of
    that answerer, None where reliance was not measured."""
    if measured is None:
        return needs(case, outcome, cue.said, [], None, [])
    cells = _smallest_cells(context, cue, measured, words)
    missing = needs(case, outcome, cue.said, cells, measured.gap.state, reasons_of(measured, words))
    if outcome is not Verdict.INCONCLUSIVE or not case.association.above_delta:
        return missing
    return (*images_short_of(measured, words), *missing)


def images_short_of(measured: rules.MeasuredReliance, words: Words) -> tuple[Need, ...]:
    """Scored images that would decide, if they show the same: a rise that may be chance, a gap that may be small."""
    against = images_against(measured)
    if against is not None:
        where = _where(words, words.side != "lacks", True)
        return (Need(what=f"images that go against the cue, such as {where}, among the scored ones", images=against),)
    gap, margin = measured.gap.gap, measured.options.margin
    if measured.explained_by:  # no number of images makes that gap this cue's
        return ()
    if measured.gap.state == "able" and (gap.value or 0.0) > margin >= low_limit(gap):
        what = f"scored images, with and without {words.cue}: the gap may be below {100 * margin:g} points"
        return (Need(what=what, images=images_needed(gap, margin)),)
    return ()


def images_against(measured: rules.MeasuredReliance) -> int | None:
    """Conflicting images that would show, if it stays, that taking the cue out mends more of them than chance does;
    None where something else is missing."""
    effect = measured.effect
    if effect is None or not measured.hangs_on_it or effect.specific:
        return None
    rise = effect.net_conflict_rise
    # its n counts conflicting images alone: those few make both the rise and the DiD unsure
    return images_needed(rise, 0.0) if (rise.value or 0.0) > 0 and low_limit(rise) <= 0 else None


def _smallest_cells(context: Context, cue: ValueCue, measured: rules.MeasuredReliance, words: Words) -> list[CellSize]:
    """The smallest cells of the classes that have the cue, and of those that lack it, smallest first: that is what a
    pass waits for. Of classes that can be compared or, where a side has none, of all."""
    pointed = np.zeros(len(context.names), np.bool_)
    pointed[context.tested[cue.upper]] = True
    comparable = {cell.k for cell in measured.gap.cells}
    cells = []
    for having in (True, False):
        own = [size for size in measured.gap.sizes if pointed[size.k] == having]
        own = [size for size in own if size.k in comparable] or own
        for conflicting in (False, True):
            n = min((size.conflicting if conflicting else size.aligned for size in own), default=0.0)
            cells.append(CellSize(what=_where(words, having, conflicting), n=n))
    return sorted(cells, key=lambda cell: cell.n)


def _where(words: Words, having: bool, conflicting: bool) -> str:
    """Images of the classes that have the cue, or of those that lack it, where it points to their class, or away."""
    return f"{_names(words, having)} {'with' if having != conflicting else 'without'} {words.cue}"


def _names(words: Words, having: bool) -> str:
    """The classes that have the cue, or those that lack it."""
    return listed(words.classes if having == (words.side != "lacks") else words.others)


def reasons_of(measured: rules.MeasuredReliance, words: Words) -> list[str]:
    """Why an answerer's evidence falls short, in words."""
    who, gap, effect = answerer_words(measured.answerer), measured.gap, measured.effect
    reasons = []
    if measured.explained_by:
        reasons.append(f"nothing: {listed([*map(column_in_words, measured.explained_by)])} explains the gap of {who}")
    if gap.above_margin(measured.options) and not gap.both_sides:
        reasons.append(_one_side(gap, words, measured.options.alpha))
    if gap.above_margin(measured.options) and not measured.label_noise.counts:
        rate = measured.label_noise.rate_low or 0.0
        reasons.append(
            f"labels that are surely right (--clean-labels): {100 * rate:.1f} % wrong ones would make this gap"
        )
    if gap.does_not_hang_on_it(measured.options) and not measured.does_not_hang_on_it:
        reasons.append(
            "a column that is wrong less often: corrected for its known error, the gap or the margin D may be larger"
        )
    if effect is not None and gap.both_sides and not effect.testable:
        reasons.append("more stored heads (--layers): there are too few sets of heads to compare with")
    if measured.hangs_on_it and effect is not None and not measured.visible:
        reasons.append("heads that see the cue: those that were chosen do not show it")
    training = measured.training
    if measured.hangs_on_it and training is not None and not training.specific:
        reasons.append("a gap that falls beyond chance when it is trained again with weights against the cue")
    return reasons


def _one_side(gap: Gap, words: Words, alpha: float) -> str:
    """That the cue moves the answers of one side's classes alone."""
    still_having = gap.have.p >= alpha
    still = gap.have if still_having else gap.lack
    return (
        f"a cue that moves answers on both sides: on images of {_names(words, still_having)} it does not (margin D"
        f" {still.d.value or 0.0:.2f}, {p_text(still.p)}), so that the others may just be harder"
    )


def rest_of(missing: Sequence[Need]) -> str:
    """What is missing, at a sentence's end, images first; nothing where nothing is."""
    if not missing:
        return ""
    counted = next((need for need in missing if need.images is not None), None)
    if counted is not None:
        return f"{counted.images:,} more {'image is' if counted.images == 1 else 'images are'} needed: {counted.what}"
    return f"missing: {missing[0].what}"
