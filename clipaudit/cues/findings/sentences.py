"""Verdicts in plain words: name, cue, number, interval and n, and what to do; the answerer is named in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Final, Literal

from clipaudit.cues.findings.verdicts import high_limit, low_limit
from clipaudit.cues.result.finding_parts import Association, ClassesFrom, Estimate, Verdict
from clipaudit.cues.result.reliance_parts import Counterfactual, LabelRanking, Reliance, TrainingExperiment
from clipaudit.statistics import p_text

_ANSWERERS: Final = {
    "clip": "CLIP",
    "rehearsed": "a model trained on these images",
}
_COUNTS_AS: Final[dict[ClassesFrom, str]] = {
    "label": "labelled {}",
    "caption": "whose captions name {}",
    "clip": "that CLIP calls {}",
}
_SHOWN: Final = 4


@dataclass(frozen=True, kw_only=True)
class Words:
    """How a finding speaks of itself."""

    classes: tuple[str, ...]
    """The named ones."""
    cue: str
    side: Literal["has", "lacks", "both"]
    others: tuple[str, ...] = ()
    """The classes on the other side."""
    column: str | None = None
    """Display name of the column that grounds it."""
    core: str | None = None
    """What `--core` takes for it, where that is not `cue`."""
    presence: bool = False
    """Of images with or without one of several labels: the named ones are many images, and no classes."""
    other_label: str | None = None
    """The label that the cue is, where two labels go together."""
    why_not: str = ""
    """Of one of several labels: why no model of it was measured."""

    @property
    def name(self) -> str:
        """The named classes."""
        return listed(self.classes)


def answerer_words(answerer: str) -> str:
    """Who answers, in a sentence: `your model resnet` for `given:resnet`."""
    if answerer.partition(":")[0] == "given":
        return f"your model {answerer.partition(':')[2]}".rstrip()
    return _ANSWERERS.get(answerer, answerer)


def listed(names: Sequence[str]) -> str:
    """`a, b and c`; of many the first four and how many more."""
    if len(names) > _SHOWN:
        return f"{', '.join(names[: _SHOWN - 1])} and {len(names) - _SHOWN + 1} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def tie(words: Words, association: Association) -> str:
    """Which classes go with the cue, and how strongly."""
    d = association.d
    number = f"(D = {interval(d)}, n = {d.n:,})"
    if words.presence:
        return f"{words.name[0].upper()}{words.name[1:]} go with {words.cue!r} {number}"
    if words.side == "lacks":
        verb, share = ("lacks" if len(words.classes) == 1 else "lack"), "has" if len(words.others) == 1 else "share"
        return f"{words.name} {verb} {words.cue!r}, which {listed(words.others)} {share} {number}"
    return f"{words.name} go{'es' if len(words.classes) == 1 else ''} with {words.cue!r} {number}"


def sentence(
    words: Words,
    outcome: Verdict,
    association: Association,
    classes_from: ClassesFrom,
    answerer: str | None = None,
    *,
    gap: Estimate | None = None,
    margin_d: Estimate | None = None,
    corrected_margin_d: Estimate | None = None,
    effect: Counterfactual | None = None,
    training: TrainingExperiment | None = None,
    ranking: LabelRanking | None = None,
    rest: str = "",
) -> str:
    """The verdict in plain words; rest: what is missing, for those that are not decided."""
    who = answerer_words(answerer or "")
    goes, loses = tie(words, association), "" if gap is None else _gap(gap) if ranking is None else _aucs(gap, ranking)
    proxy = f"{words.cue!r}, or what goes with it"
    match outcome:
        case Verdict.OBSERVED:
            which = _COUNTS_AS[classes_from].format(words.name)
            d = association.d
            return (
                f"Images {which} go with {words.cue!r} (D = {interval(d)}, n = {d.n:,}); without labels nobody can say"
                f" whether {words.name} itself does, or whether a model relies on it."
            )
        case Verdict.CANDIDATE if words.presence:
            return f"{goes}; whether it is part of what the label means or a shortcut cannot be told from labels alone."
        case Verdict.CANDIDATE:
            return f"{goes}; whether that is a shortcut or part of {words.name} cannot be told from class labels alone."
        case Verdict.TIED if words.other_label == words.cue:
            return f"{goes}: two labels that go together, so that a model may learn one from the other."
        case Verdict.TIED if words.other_label is not None:
            return f"{goes}: two labels that keep apart, so that a model may learn one as the other's absence."
        case Verdict.TIED if words.presence:
            return f"{goes}; what a model makes of it is not measured{words.why_not and f': {words.why_not}'}."
        case Verdict.TIED:
            return f"{goes}, as a whole: no single value is tied strongly enough to be judged alone."
        case Verdict.CONFIRMED:
            return f"{goes}, and {who} relies on {proxy}: {loses}{_effect(effect)}{_training(training, bool(ranking))}."
        case Verdict.FAILS_WHERE:
            return f"{goes}, and {who} fails where {words.cue!r} is missing or misleads: {loses}."
        case Verdict.NEEDED:
            return (
                f"{goes}, and {who} needs it: without it, images that have it are answered worse{_effect(effect)}. Is"
                f" {words.cue!r} part of {words.name}, or a shortcut? You decide."
            )
        case Verdict.MODEL_ONLY:
            number = f"(D = {interval(association.d)}, n = {association.d.n:,})"
            return (
                f"In this data {words.name} hardly goes with {words.cue!r} {number}, but {who} relies on {proxy}:"
                f" {loses}{_effect(effect)}. Answers to one half of the images chose it, the other half measured it."
            )
        case Verdict.DATA_ONLY:
            margin = _margin(margin_d, corrected_margin_d)
            return f"{goes}, and {who} does not hang on it: {loses}{margin}. Another model trained on this data may."
        case Verdict.INCONCLUSIVE:
            open_ = f"; what {who} makes of it is open" if who else "; what a model makes of it is open"
            return f"{goes}{open_}{': ' + loses if loses else ''}{'; ' + rest if rest else ''}."


def also_of(reliance: Sequence[Reliance], outcome: Verdict) -> str:
    """Who else has the headline's verdict, where it speaks against an answerer."""
    others = [answerer_words(part.answerer) for part in reliance if part.verdict is outcome][1:]
    if not others or outcome not in (Verdict.CONFIRMED, Verdict.FAILS_WHERE, Verdict.MODEL_ONLY):
        return ""
    return f" The same holds for {listed(others)}."


def action(outcome: Verdict, words: Words, missing: int | None) -> str:
    """What to do about it, beginning with the verb; `missing` images to collect, or of the class and of others to label
    for what is observed."""
    number = f"{missing:,} images" if missing else "images"
    collect = f"Collect {number} that break the tie (collect.csv says of which class), or train with the group weights"
    if words.presence and outcome in (Verdict.CONFIRMED, Verdict.FAILS_WHERE, Verdict.DATA_ONLY):
        return _balance_label(number, words, outcome)
    with_it, without = ("without", "with") if words.side == "lacks" else ("with", "without")
    where = f"{words.name} {without} {words.cue}"
    # the cue misleads in the other classes as it is missing in these
    misled = f"{listed(words.others)} {with_it} {words.cue}" if words.others else ""
    match outcome:
        case Verdict.CONFIRMED | Verdict.FAILS_WHERE:
            return f"{collect}; until then do not trust answers on {where}{misled and f', or on {misled}'}."
        case Verdict.DATA_ONLY:
            return f"{collect}."
        case Verdict.MODEL_ONLY:
            return (
                f"Use another model, or train this one on images of {where}{misled and f' and of {misled}'}, and until"
                " then do not trust its answers on them: there is nothing to mend in this data."
            )
        case Verdict.NEEDED:
            say = f"--core {quote(words.core or words.cue)}"
            return (
                f"Decide whether {words.cue} belongs to {words.name}: if it does, say {say}; if not,"
                f" {collect[0].lower()}{collect[1:]}."
            )
        case Verdict.TIED if words.other_label is not None:
            return (
                f"Add images that have one of the two labels without the other ({number} would break the tie): until"
                " then a model's score for one says little that the other does not."
            )
        case Verdict.TIED if words.presence:
            return (
                f"Look at how {words.column or words.cue} is spread over images with and without the label, and balance"
                " it or leave it out."
            )
        case Verdict.TIED:
            return (
                f"Look at how {words.column or words.cue} is spread over the classes, and balance it or leave it out."
            )
        case Verdict.CANDIDATE if words.presence:
            return (
                f"Look at the images; if {words.cue} is no part of what the label means, add a column that says which"
                " images have it."
            )
        case Verdict.CANDIDATE:
            return (
                f"Look at the images; if {words.cue} is no part of {words.name}, add a column that says which images"
                " have it."
            )
        case Verdict.OBSERVED:
            many = f"{missing:,}" if missing else "some"
            return (
                f"Label {many} of the images that count as {words.name} and as many others by hand, and audit those"
                " with --label: only then can this be more than an observation."
            )
        case Verdict.INCONCLUSIVE:
            return f"Add what is missing to decide whether {words.cue} matters for {words.name}, and audit again."


def _balance_label(number: str, words: Words, outcome: Verdict) -> str:
    """What to do about a cue of one of several labels: no file holds weights for each label."""
    trust = (
        ""
        if outcome is Verdict.DATA_ONLY
        else "; until then do not trust a score for the label where the cue is missing or misleads"
    )
    return (
        f"Collect {number} that break the tie (collect.csv says which), or let images with and without the label, with"
        f" and without {words.cue}, count alike when it is trained{trust}."
    )


def _gap(gap: Estimate) -> str:
    return (
        f"inside classes, accuracy is {abs(100 * (gap.value or 0)):.1f} points"
        f" {'lower' if (gap.value or 0) >= 0 else 'higher'} where it points the wrong way"
        f" ({100 * low_limit(gap):.1f} to {100 * high_limit(gap):.1f})"
    )


def _margin(margin_d: Estimate | None, corrected: Estimate | None) -> str:
    said = "" if margin_d is None else f", margin D = {interval(margin_d)}"
    return said if corrected is None else f"{said} (corrected for the column's known error {interval(corrected)})"


def _aucs(gap: Estimate, ranking: LabelRanking) -> str:
    wrong, right = (part.value or 0.0 for part in (ranking.conflicting, ranking.aligned))
    return (
        f"it ranks the label with AUC {wrong:.2f} where the cue is missing or misleads, against {right:.2f} where it"
        f" points right (gap {gap.value or 0.0:.2f}, {low_limit(gap):.2f} to {high_limit(gap):.2f})"
    )


def _effect(effect: Counterfactual | None) -> str:
    if effect is None:
        return ""
    heads = f" of {', '.join(effect.heads[:3])}" if effect.heads_named and 0 < len(effect.heads) <= 3 else ""
    return (
        f"; taking it out{heads} closes {100 * (effect.net_did.value or 0):.1f} points of that beyond controls"
        f" ({100 * low_limit(effect.net_did):.1f} to {100 * high_limit(effect.net_did):.1f}, {p_text(effect.p)})"
    )


def _training(training: TrainingExperiment | None, ranked: bool) -> str:
    if training is None:
        return ""
    fall = training.net_fall
    value, low, high = (fall.value or 0.0), low_limit(fall), high_limit(fall)
    gone = f"{value:.2f} of that goes" if ranked else f"{100 * value:.1f} points of that go"
    limits = f"{low:.2f} to {high:.2f}" if ranked else f"{100 * low:.1f} to {100 * high:.1f}"
    return (
        f"; trained again with group weights, {gone}, beyond weights of permuted columns ({limits},"
        f" {p_text(training.p)})"
    )


def interval(estimate: Estimate) -> str:
    """`0.90, 95 % interval 0.88 to 0.91`."""
    percent = f"{100 * estimate.level:.3g} % interval "
    return f"{estimate.value or 0:.2f}, {percent}{low_limit(estimate):.2f} to {high_limit(estimate):.2f}"
