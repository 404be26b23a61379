"""What may be said of a cue, by answerer, from its numbers alone (docs/method.md 8), and what is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from clipaudit.cues.result.finding_parts import Association, ClassesFrom, Estimate, Need, Verdict
from clipaudit.cues.statistics.intervals import GATE

_MOST: Final = 10_000_000
ORDER: Final = tuple(Verdict)
"""Worst first."""
_NOT_LABELS: Final[dict[ClassesFrom, str]] = {
    "caption": "class labels: captions leave things out, and name what is not there",
    "clip": "class labels: CLIP's own answers cannot say where CLIP is wrong",
}


class RelianceRules(Protocol):
    """What the rules of reliance say of one answerer and cue, without the association."""

    @property
    def answerer(self) -> str:
        """`clip`, `rehearsed` or `given:NAME`."""

    @property
    def relies_on_it(self) -> bool:
        """S9 on both sides and not explained, and because of it: S10, S10b, S10c."""

    @property
    def fails_where(self) -> bool:
        """The gap without S10: both sides, S9b, S9c, the permutation of the gap."""

    @property
    def needed(self) -> bool:
        """Removal hurts images with the cue more than those without."""

    @property
    def does_not_hang_on_it(self) -> bool:
        """S9's acquittal."""


@dataclass(frozen=True, kw_only=True)
class VerdictCase:
    """The numbers that a verdict rests on."""

    kind: Literal["value", "column", "text"]
    classes_from: ClassesFrom
    """Without labels nothing is more than observed."""
    association: Association
    reliance: Sequence[RelianceRules] = ()
    """One for each answerer."""
    few_sources: bool = False
    """Images from fewer than eight sources: nothing is decided."""
    stands_in_for: str | None = None
    """A column that cannot be told from this one and is tied more strongly: that one is judged."""
    presence: bool = False
    """One label of several an image against its absence: without an answerer a value is a tied column."""
    why_not: str = ""
    """Of such a label: why no model of it was measured."""


def verdicts(case: VerdictCase) -> tuple[Verdict, ...]:
    """One for each answerer, in their order; of a cue without answerers a single one."""
    if case.reliance and case.classes_from == "label" and case.kind == "value":
        return tuple(_of_answerer(case, rules) for rules in case.reliance)
    return (_without_answerers(case),)


def headline(outcomes: Sequence[Verdict]) -> Verdict:
    """The worst."""
    return min(outcomes, key=ORDER.index)


def _without_answerers(case: VerdictCase) -> Verdict:
    if case.classes_from != "label":
        return Verdict.OBSERVED
    if case.few_sources or not case.association.above_delta:
        # a column is here because its own test made it tied (S6b)
        return Verdict.TIED if case.kind == "column" and not case.few_sources else Verdict.INCONCLUSIVE
    value = Verdict.TIED if case.presence else Verdict.INCONCLUSIVE
    by_kind = {"text": Verdict.CANDIDATE, "column": Verdict.TIED, "value": value}
    return by_kind[case.kind]


def _of_answerer(case: VerdictCase, rules: RelianceRules) -> Verdict:
    """In the precedence of docs/method.md 8."""
    if case.few_sources or case.stands_in_for is not None:
        return Verdict.INCONCLUSIVE
    above, within = case.association.above_delta, case.association.within_delta
    if above and rules.relies_on_it:
        return Verdict.CONFIRMED
    if above and rules.fails_where:
        return Verdict.FAILS_WHERE
    if rules.needed:
        return Verdict.NEEDED
    # `given` can only be watched: its gap has to do where an effect would be asked for. What is trained on these images
    # alone has nowhere else to learn from what these images do not have.
    relies = rules.relies_on_it or (rules.answerer.startswith("given") and rules.fails_where)
    if within and relies and rules.answerer != "rehearsed":
        return Verdict.MODEL_ONLY
    # an answerer that is not acquitted may have learned it
    if above and all(other.does_not_hang_on_it for other in case.reliance):
        return Verdict.DATA_ONLY
    return Verdict.INCONCLUSIVE


# -- what is missing ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CellSize:
    """Independent scored images of one cell, and what it is, in words."""

    what: str
    n: float


def needs(
    case: VerdictCase,
    outcome: Verdict,
    value: str,
    cells: Sequence[CellSize],
    state: str | None,
    reasons: Sequence[str],
) -> tuple[Need, ...]:
    """What would make a weaker verdict conclusive; empty for conclusive ones.

    cells: of the scored images; state: of the answerer, `able` and so on; reasons: why its evidence falls short.
    """
    if case.classes_from != "label":
        return (Need(what=_NOT_LABELS[case.classes_from], images=None),)
    if outcome in (Verdict.CONFIRMED, Verdict.FAILS_WHERE, Verdict.MODEL_ONLY, Verdict.DATA_ONLY):
        return ()
    if case.few_sources:
        return (Need(what="images from at least eight sources", images=None),)
    if case.stands_in_for is not None:
        return (
            Need(what=f"images in which it and {case.stands_in_for} differ: they cannot be separated", images=None),
        )
    if case.kind == "text":
        return (Need(what=f"a column that says whether an image has {value!r}", images=None),)
    if case.presence and case.kind == "value" and outcome is Verdict.TIED:
        return (Need(what=f"a model's answers: not measured{case.why_not and f', {case.why_not}'}", images=None),)
    if case.kind == "column":
        return (Need(what="a look at its values: no single one is tied strongly enough", images=None),)
    if outcome is Verdict.NEEDED:
        return (Need(what=f"your decision whether {value!r} is part of the class (--core)", images=None),)
    missing = [
        Need(what=f"{cell.what} among the scored images", images=math.ceil(GATE - cell.n))
        for cell in cells
        if cell.n < GATE
    ]
    if state == "at chance":
        missing.append(Need(what="a model that can tell the classes", images=None))
    if not case.association.above_delta and not case.association.within_delta:
        read = images_needed(case.association.d, case.association.delta)
        more = None if read is None else 2 * read  # D is read on one half of the images (S1c), of new ones too
        missing.append(Need(what="images of the classes, for the association", images=more))
    missing += [Need(what=reason, images=None) for reason in reasons]
    return tuple(missing) or (Need(what="an effect of the cue that is larger than chance", images=None),)


def labels_needed(association: Association, own: int, total: int) -> int:
    """How many images of a class, and as many others, would have to be labelled for the association to be found again
    in them, if it stays; at least what a gate asks for, at most the `own` images that the class has of `total`.
    """
    others, clear = total - own, abs(association.d.value or 0.0) - association.delta
    half = (high_limit(association.d) - low_limit(association.d)) / 2
    if min(own, others) < 1 or clear <= 0:
        return own
    # An interval's square goes with 1 / own + 1 / others, and with 2 / n for n on both sides. D was read on a part of
    # the images and will be read on the same part of the new ones, so that both sides of the ratio count all of them.
    wanted = math.ceil(2 * (half / clear) ** 2 / (1 / own + 1 / others))
    return min(max(wanted, GATE), own)


def images_needed(estimate: Estimate, limit: float) -> int | None:
    """How many more images would move the whole interval to the side of `limit` where the value is, if it stays;
    None when the value is at the limit."""
    if estimate.value is None or estimate.n == 0:
        return None
    distance, half = abs(estimate.value - limit), (high_limit(estimate) - low_limit(estimate)) / 2
    if distance < 1e-6:
        return None
    # intervals narrow with the square root of n
    more = math.ceil(estimate.n * ((half / distance) ** 2 - 1))
    return min(max(more, 1), _MOST)


def low_limit(estimate: Estimate) -> float:
    """The lower limit; -inf where there is none."""
    return -math.inf if estimate.low is None else estimate.low


def high_limit(estimate: Estimate) -> float:
    """The upper limit; inf where there is none."""
    return math.inf if estimate.high is None else estimate.high
