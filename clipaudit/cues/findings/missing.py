"""What is missing to decide a value: images of which cells, and why an answerer's evidence falls short."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipaudit.cues.findings.measured_reliance import ValueCue
from clipaudit.cues.findings.sentences import Words, answerer_words, listed
from clipaudit.cues.findings.verdicts import CellSize, VerdictCase, images_needed, low_limit, needs
from clipaudit.cues.measure.context import Context
from clipaudit.cues.reliance import rules
from clipaudit.cues.result.column_words import column_in_words
from clipaudit.cues.result.finding_parts import Need, Verdict


def what_is_missing(
    context: Context,
    case: VerdictCase,
    outcome: Verdict,
    cue: ValueCue,
    measured: Sequence[rules.MeasuredReliance],
    words: Words,
) -> tuple[Need, ...]:
    """What would decide a value that is not decided, or make a weaker verdict conclusive."""
    first = next(iter(measured), None)
    cells = [] if first is None else _smallest_cells(context, cue, first, words)
    reasons = [] if first is None else _reasons(first)
    missing = needs(case, outcome, cue.said, cells, None if first is None else first.gap.state, reasons)
    # where the association holds, a rise that may be chance is what keeps it from a verdict
    against = None if first is None or outcome is not Verdict.INCONCLUSIVE else images_against(first)
    if against is None or not case.association.above_delta:
        return missing
    where = _where(words, words.side != "lacks", True)
    what = f"images that go against the cue, such as {where}, among the scored ones"
    return (Need(what=what, images=against), *missing)


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
    names = words.classes if having == (words.side != "lacks") else words.others
    return f"{listed(names)} {'with' if having != conflicting else 'without'} {words.cue}"


def _reasons(measured: rules.MeasuredReliance) -> list[str]:
    """Why an answerer's evidence falls short, in words."""
    who, gap, effect = answerer_words(measured.answerer), measured.gap, measured.effect
    reasons = []
    if measured.explained_by:
        reasons.append(f"nothing: {listed([*map(column_in_words, measured.explained_by)])} explains the gap of {who}")
    if gap.above_margin(measured.options) and not gap.both_sides:
        reasons.append("a cue that helps on both sides: these images seem harder, whatever their class")
    if gap.above_margin(measured.options) and not measured.label_noise.counts:
        rate = measured.label_noise.rate_low or 0.0
        reasons.append(
            f"labels that are surely right (--clean-labels): {100 * rate:.1f} % wrong ones would make this gap"
        )
    if gap.does_not_hang_on_it(measured.options) and not measured.does_not_hang_on_it:
        reasons.append("a column that is wrong less often: corrected for its known error, the gap may be larger")
    if effect is not None and gap.both_sides and not effect.testable:
        reasons.append("more stored heads (--layers): there are too few sets of heads to compare with")
    if measured.hangs_on_it and effect is not None and not measured.visible:
        reasons.append("heads that see the cue: those that were chosen do not show it")
    return reasons


def rest_of(missing: Sequence[Need]) -> str:
    """What is missing, at a sentence's end: images first."""
    counted = next((need for need in missing if need.images is not None), None)
    if counted is not None:
        return f"{counted.images:,} more images are needed: {counted.what}"
    return f"missing: {missing[0].what}"
