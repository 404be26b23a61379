"""What may be said of a cue, from its numbers alone (docs/method.md 8), and how many images would decide it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from clipaudit.cues.result.finding_parts import Association, ClassesFrom, Estimate, Need, Verdict
from clipaudit.cues.result.reliance import Arm
from clipaudit.cues.statistics.intervals import GATE

POINT: Final = 0.01
"""One percentage point of accuracy: what counts as no effect, and what a mean may lose."""
CONTROL: Final = 0.05
"""p of the random head sets below which an effect is more than theirs."""
_MAX_IMAGES: Final = 10_000_000
"""Larger numbers of images still needed are not told apart."""
_NAMED_HEADS: Final = 3
"""More heads than these are counted in a sentence, not named."""
_COUNTS_AS: Final[dict[ClassesFrom, str]] = {
    "label": "labelled {}",
    "caption": "whose captions name {}",
    "clip": "that CLIP calls {}",
}
_NOT_LABELS: Final[dict[ClassesFrom, str]] = {
    "caption": "class labels: captions leave things out, and name what is not there",
    "clip": "class labels: CLIP's own answers cannot say where CLIP is wrong",
}


@dataclass(frozen=True, kw_only=True)
class VerdictCase:
    """The numbers that a verdict rests on."""

    association: Association
    attributes: bool
    """The cue is an attribute's value, whose labels make the groups."""
    classes_from: ClassesFrom
    """Without labels nothing is more than observed."""
    arm: Arm | None
    """Whole heads; None when nothing was replaced."""
    own: int
    """Scored images of the class without the cue."""
    others: int
    """Scored images of other classes with the cue."""


def verdict(case: VerdictCase) -> Verdict:
    """The strongest verdict that the evidence allows (docs/method.md 8); cells that are too small are never a pass."""
    if case.classes_from != "label":
        return Verdict.OBSERVED
    if not case.attributes:
        return Verdict.CANDIDATE if case.association.above_delta else Verdict.INCONCLUSIVE
    if case.arm is None or min(case.own, case.others) < GATE:
        return Verdict.INCONCLUSIVE
    if harmful(case.arm):
        return Verdict.CORE
    if relied_on(case.arm):
        if case.association.above_delta:
            return Verdict.CONFIRMED
        if case.association.within_delta:
            return Verdict.MODEL_ONLY
    if case.association.above_delta and immune(case.arm):
        return Verdict.DATA_ONLY
    return Verdict.INCONCLUSIVE


def relied_on(arm: Arm) -> bool:
    """Whether taking the cue out helps where it misleads, costs no point on average, and beats random heads."""
    conflict, mean, control = arm.delta_conflict, arm.delta_group_mean, arm.control
    if conflict is None or mean is None or control is None:
        return False
    return _low(conflict) > 0 and _low(mean) > -POINT and control.p < CONTROL


def harmful(arm: Arm) -> bool:
    """Whether taking the cue out hurts both where it misleads and on average: then it belongs to the class."""
    conflict, mean = arm.delta_conflict, arm.delta_group_mean
    return conflict is not None and mean is not None and _high(conflict) < 0 and _high(mean) < 0


def immune(arm: Arm) -> bool:
    """Whether the effect's whole interval lies within one point."""
    conflict = arm.delta_conflict
    return conflict is not None and _low(conflict) > -POINT and _high(conflict) < POINT


def needs(case: VerdictCase, class_name: str, value: str) -> tuple[Need, ...]:
    """What would make an inconclusive case conclusive; empty for others."""
    if case.classes_from != "label":
        return (Need(what=_NOT_LABELS[case.classes_from], images=None),)
    if not case.attributes:
        return (Need(what=f"a column that says whether an image has {value!r}", images=None),)
    small_cells = [
        Need(what=f"{what} among the scored images", images=GATE - n)
        for what, n in ((f"{class_name} without {value}", case.own), (f"other classes with {value}", case.others))
        if n < GATE
    ]
    if small_cells:
        return tuple(small_cells)
    if case.arm is None:
        return (Need(what="zero-shot answers better than guessing", images=None),)
    return _sharper(case, class_name, value)


def _sharper(case: VerdictCase, class_name: str, value: str) -> tuple[Need, ...]:
    """How many more images of the same kinds would move each interval that holds its limit beyond it."""
    assert case.arm is not None
    missing = []
    conflict, mean = case.arm.delta_conflict, case.arm.delta_group_mean
    if conflict is not None and _low(conflict) <= 0 <= _high(conflict):
        count = images_needed(conflict, 0.0)
        missing.append(Need(what=f"conflicting images ({class_name} without {value}, others with it)", images=count))
    if mean is not None and _low(mean) <= -POINT <= _high(mean):
        missing.append(Need(what="scored images of all groups", images=images_needed(mean, -POINT)))
    control = case.arm.control
    if control is not None and control.p >= CONTROL:
        too_few_sets = 1 / control.different_sets >= CONTROL  # the chosen set is one of them
        what = (
            "more stored heads (--layers), for there are too few sets to compare with"
            if too_few_sets
            else ("heads that carry the cue apart from others: random sets do as much")
        )
        missing.append(Need(what=what, images=None))
    if not case.association.above_delta and not case.association.within_delta:
        count = images_needed(case.association.d, case.association.delta)
        missing.append(Need(what=f"images of {class_name} and its rivals, for the association", images=count))
    return tuple(missing) or (Need(what="a cue whose removal changes answers by more than a point", images=None),)


def labels_needed(association: Association, own: int) -> int:
    """Images of a class, and as many others, to label so that an association that stays would be found again in them.

    At least the 100 that a gate needs, at most the `own` images that the class has.
    """
    others, clear = association.d.n - own, abs(association.d.value or 0.0) - association.delta
    half = (_high(association.d) - _low(association.d)) / 2
    if min(own, others) < 1 or clear <= 0:
        return own
    # a half width squared is proportional to 1 / own + 1 / others, which is 2 / n for n images on each side
    per_side = math.ceil(2 * (half / clear) ** 2 / (1 / own + 1 / others))
    return min(max(per_side, GATE), own)


def images_needed(estimate: Estimate, limit: float) -> int | None:
    """How many more images would move the whole interval to the side of `limit` where the value is, if it stays.

    None when the value is at the limit, or there is none.
    """
    if estimate.value is None or estimate.n == 0:
        return None
    distance, half = abs(estimate.value - limit), (_high(estimate) - _low(estimate)) / 2
    if distance < 1e-6:
        return None
    factor = (half / distance) ** 2  # half widths shrink with the root of n
    count = math.ceil(estimate.n * (factor - 1))
    return min(max(count, 1), _MAX_IMAGES)


# -- words -------------------------------------------------------------------------------------------------------------


def sentence(case: VerdictCase, outcome: Verdict, class_name: str, cue: str) -> str:
    """The verdict in plain words, with number, interval and n."""
    d = case.association.d
    goes = f"{class_name} goes with {cue!r} (D = {_interval(d)}, n = {d.n:,})"
    if outcome is Verdict.OBSERVED:
        which = _COUNTS_AS[case.classes_from].format(class_name)
        return (
            f"Images {which} go with {cue!r} (D = {_interval(d)}, n = {d.n:,}); without labels nobody can say whether"
            f" {class_name} itself does, or whether CLIP relies on it."
        )
    if outcome is Verdict.CANDIDATE:
        return f"{goes}; whether that is a shortcut or part of {class_name} cannot be told from class labels alone."
    arm = case.arm
    effect = "" if arm is None or arm.delta_conflict is None else _effect(arm, arm.delta_conflict)
    if outcome is Verdict.CONFIRMED:
        return f"{goes}, and CLIP relies on it: {effect}."
    if outcome is Verdict.MODEL_ONLY:
        return (
            f"In this data {class_name} hardly goes with {cue!r} (D = {_interval(d)}), but CLIP relies on it: {effect}."
        )
    if outcome is Verdict.DATA_ONLY:
        return f"{goes}, and CLIP does not rely on it: {effect}. A model trained on this data may."
    if outcome is Verdict.CORE:
        return f"{goes}, and CLIP needs it to recognise {class_name}: {effect}."
    first = next((need for need in needs(case, class_name, cue) if need.images is not None), None)
    missing = f"{first.images:,} more images are needed: {first.what}" if first else "see what is missing"
    return f"{goes}; what CLIP makes of it is open: {effect + '; ' if effect else ''}{missing}."


def action(outcome: Verdict, class_name: str, value: str, count: int | None) -> str:
    """What to do about it; `missing` images to collect, or of the class and of others to label for what is observed."""
    images = f"{count:,} images" if count else "images"
    if outcome is Verdict.CONFIRMED:
        return (
            f"Collect {images} of {class_name} without {value}, or train with the group weights; until then do not"
            f" trust answers on {class_name} without {value}."
        )
    if outcome is Verdict.DATA_ONLY:
        return f"Collect {images} of {class_name} without {value}, or train with the group weights."
    if outcome is Verdict.MODEL_ONLY:
        return f"Nothing to do in this data; do not trust zero-shot answers on {class_name} without {value}."
    if outcome is Verdict.CORE:
        return f"Nothing to do: {value} is part of what makes {class_name}."
    if outcome is Verdict.CANDIDATE:
        return (
            f"Look at the images; if {value} is no part of {class_name}, add a column that says which images have it."
        )
    if outcome is Verdict.OBSERVED:
        labels = f"{count:,}" if count else "some"
        return (
            f"Label {labels} of the images that count as {class_name} and as many others by hand, and audit those with"
            " --label: only then can this be more than an observation."
        )
    return "Add what is missing, and audit again."


def _effect(arm: Arm, change: Estimate) -> str:
    heads = ", ".join(arm.heads) if 0 < len(arm.heads) <= _NAMED_HEADS else f"{len(arm.heads) or 'no'} heads"
    verb = "rises" if (change.value or 0) >= 0 else "falls"
    control = "" if arm.control is None else f", random heads p = {arm.control.p:.3f}"
    return (
        f"with {heads} at their means, accuracy on conflicting images {verb} by {abs(100 * (change.value or 0)):.1f}"
        f" points ({100 * _low(change):.1f} to {100 * _high(change):.1f}, n = {change.n:,}{control})"
    )


def _interval(estimate: Estimate) -> str:
    percent = f"{100 * estimate.level:g} % interval "
    return f"{estimate.value or 0:.2f}, {percent}{_low(estimate):.2f} to {_high(estimate):.2f}"


def _low(estimate: Estimate) -> float:
    return -math.inf if estimate.low is None else estimate.low


def _high(estimate: Estimate) -> float:
    return math.inf if estimate.high is None else estimate.high
