"""What is said of the answerers of a finding: who relies on the cue, how much, and the numbers beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from clipaudit.cues.report.words import NONE, Number, counted, decimal, level, limits, p_value, points, unit, who
from clipaudit.cues.result.finding_parts import Estimate, Verdict
from clipaudit.cues.result.result import Finding
from clipaudit.statistics import SIGNIFICANT


def reliance(finding: Finding) -> Estimate | None:
    """How much of the answerer's gap closes when the cue is taken out, or when it is trained with weights, net of
    controls; where that was not measured the gap itself; None without either."""
    part = finding.relying
    if part is None:
        return None
    if part.effect is not None:
        return part.effect.net_did
    return part.gap if part.training is None else part.training.net_fall


@dataclass(frozen=True, kw_only=True)
class AnswererCell:
    """What the table of findings says of one answerer."""

    value: str
    limits: str
    about: str
    """What the number is, or why there is none."""


ANSWERER_COLUMNS: Final = (("rehearsed", "Learned when trained on it"), ("clip", "CLIP"), ("given", "Your model"))
"""Answerers and the headings of their columns, in the order of the table of findings."""

_NO_ANSWERS: Final = {
    "at chance": "cannot say: no better than guessing",
    "too few": "cannot say: too few images",
}


def answerer_cell(finding: Finding, answerer: str) -> AnswererCell:
    """An answerer's net effect in points, else its gap, else why nothing can be said."""
    measured = finding.by(answerer)
    if measured is None:
        return AnswererCell(value=NONE, limits="", about="not measured")
    if measured.state in _NO_ANSWERS and measured.verdict == Verdict.INCONCLUSIVE:
        return AnswererCell(value=NONE, limits="", about=_NO_ANSWERS[measured.state])
    if measured.effect is not None:
        net = measured.effect.net_did
        return AnswererCell(value=points(net.value), limits=limits(net, "points"), about="points of its gap, net")
    kind = unit(measured)
    what, number = ("points", points) if kind == "points" else ("of AUC", decimal)
    if measured.training is not None and measured.verdict == Verdict.CONFIRMED:
        fall = measured.training.net_fall
        about = f"{what} of its gap go with group weights, net"
        return AnswererCell(value=number(fall.value), limits=limits(fall, kind), about=about)
    gap = measured.gap
    about = f"{what}: its gap, within the margin" if measured.does_not_hang_on_it else f"{what}: its gap"
    return AnswererCell(value=number(gap.value), limits=limits(gap, kind), about=about)


def numbers(finding: Finding) -> tuple[Number, ...]:
    """The finding's tie, reliance and control, each with its interval and n."""
    part = finding.relying
    d, effect = finding.association.d, reliance(finding)
    tested = None if part is None else part.effect or part.training
    # the limits of what was chosen among many tests are wider than 95 % (S1c)
    wide = f", {level(d.level)} interval" if level(d.level) else ""
    items = [
        Number(
            value=decimal(d.value),
            limits=limits(d),
            about=f"tie between cue and class in the data, 0 none to 1 perfect; {counted(d.n, 'image')}{wide}",
        )
    ]
    if effect is not None and effect.value is not None:
        name = "CLIP" if part is None else who(part.answerer)
        what = f"fewer right answers of {name} where the cue points the wrong way, inside classes"
        if part is not None and part.ranking is not None:
            what = f"less where the cue points the wrong way: how well {name} ranks the label"
        if part is not None and part.effect is not None:
            what = (
                f"of the gap between images with and without the cue close once it is taken out of {name}, net of"
                " controls"
            )
        elif tested is not None:
            what = (
                "of the gap between images with and without the cue go once a model is trained with group weights, net"
                " of weights of shuffled columns"
            )
            if part is not None and part.ranking is not None:
                what = "that the cue costs goes once a model is trained with weights, net of those of shuffled columns"
        kind = unit(part)
        measure, number = ("points", points) if kind == "points" else ("of AUC", decimal)
        about = f"{measure} {what}; {counted(effect.n, 'image')}"
        items.append(Number(value=number(effect.value), limits=limits(effect, kind), about=about))
    if tested is not None:
        about = "p: how often a column of the same shape, shuffled inside the classes, does as much"
        if part is not None and part.effect is None and part.training is not None:
            about += f"; trained again on {counted(part.training.training_rows, 'image')}"
        about += "" if tested.p < SIGNIFICANT else "; not significant"
        items.append(Number(value=p_value(tested.p), limits="", about=about))
    return tuple(items)
