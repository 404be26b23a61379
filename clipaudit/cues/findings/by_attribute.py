"""Findings that rest on an attribute's labels: associated with a class, or relied on without being associated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.arrays import Float32s, Float64s, Ints
from clipaudit.cues.findings import parts as building
from clipaudit.cues.findings.counterfactual import CueGroups, arm, choose_heads
from clipaudit.cues.findings.verdicts import VerdictCase, action, labels_needed, needs, sentence, verdict
from clipaudit.cues.measure.answers import Answers
from clipaudit.cues.measure.context import Context
from clipaudit.cues.measure.naming import value_contrast
from clipaudit.cues.result.finding_parts import Cue, CueWord, Evidence, Verdict
from clipaudit.cues.result.off_object import not_measured
from clipaudit.cues.result.reliance import Counterfactual
from clipaudit.cues.result.result import Finding, finding_id
from clipaudit.cues.statistics.attributes import AttributeScreen
from clipaudit.cues.statistics.groups import Grouping, conflict_of, describe_groups, grouping
from clipaudit.cues.statistics.intervals import GATE

_CARRIES: Final = 0.3
"""|D| of a value along a direction, inside classes, from which the direction carries the value."""
_MAX_SEARCHED: Final = 10
"""Values without an association that are tried, those with the largest gap."""
_GAP_ERRORS: Final = 2.5
"""Standard errors between conflict and other groups from which CLIP may rely on a value."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AttributeCue:
    """A value of an attribute and a tested class."""

    screen: AttributeScreen
    """The attribute with its tests."""
    place: int
    """Among the tested values."""
    k: int
    """Tested class, 0..K-1."""
    level: float = 0.95
    """Confidence of the interval of the conflict's change: higher when several cues were searched for."""

    @property
    def value(self) -> int:
        """Among the attribute's values."""
        return int(self.screen.values[self.place])

    @property
    def word(self) -> str:
        """The value's name."""
        return self.screen.attribute.values[self.value]


def attribute_cues(context: Context) -> list[AttributeCue]:
    """Cues of the audit's attributes: associated values, strongest first, then values that CLIP seems to rely on.

    A value is associated when a class has it significantly more often than others do (S4).
    """
    associated = []
    for screen in context.attributes:
        for place in range(len(screen.values)):
            m = context.row_of(screen, place)
            classes = np.flatnonzero(context.flagged[m] & (context.family.d[m] > 0)).tolist()
            associated += [
                (float(context.family.low[m, k]), AttributeCue(screen=screen, place=place, k=k)) for k in classes
            ]
    strongest = [cue for _, cue in sorted(associated, key=lambda item: -item[0])]
    return strongest + relied_cues(context)


def relied_cues(context: Context) -> list[AttributeCue]:
    """Values whose D lies inside +-delta and whose conflict is answered worse than other groups on the discovery half.

    At most ten, with the largest gaps; the level of their intervals is Bonferroni's over them.
    """
    if context.answers is None:
        return []
    suspects = []
    delta = context.options.delta_warn
    for screen in context.attributes:
        groups = scored_groups(context, context.answers, screen)
        for place in range(len(screen.values)):
            m = context.row_of(screen, place)
            half = 1.96 * context.family.error[m]  # (K,)
            inside = (context.family.d[m] - half > -delta) & (context.family.d[m] + half < delta)
            for k in np.flatnonzero(inside).tolist():
                cue = AttributeCue(screen=screen, place=place, k=k)
                gap = _gap(context, context.answers, groups, cue)
                if gap > _GAP_ERRORS:
                    suspects.append((gap, cue))
    best = sorted(suspects, key=lambda item: -item[0])[:_MAX_SEARCHED]
    level = 1 - 0.05 / max(len(best), 1)
    return [AttributeCue(screen=cue.screen, place=cue.place, k=cue.k, level=level) for _, cue in best]


def _gap(context: Context, answers: Answers, groups: Grouping, cue: AttributeCue) -> float:
    """Accuracy of all other groups minus that of the conflict on the discovery half, in standard errors.

    0 when either is too small, or the confirmation half has fewer than 100 images on a side of the conflict.
    """
    k = int(context.tested[cue.k])
    rows = answers.facts.discovery
    conflict = conflict_of(groups.take(~rows), k, cue.value)
    if min(conflict.own, conflict.others) < GATE:
        return 0.0
    parts = groups.take(rows)
    against = np.isin(parts.group, conflict_of(parts, k, cue.value).groups)
    aligned = (parts.group >= 0) & ~against
    right = answers.right(answers.base)[rows]
    if min(int(against.sum()), int(aligned.sum())) < GATE // 2:
        return 0.0
    a, b = right[aligned].mean(), right[against].mean()
    error = np.sqrt(a * (1 - a) / aligned.sum() + b * (1 - b) / against.sum())
    return float((a - b) / max(error, 1e-9))


def scored_groups(context: Context, answers: Answers, screen: AttributeScreen) -> Grouping:
    """The scored images by class and value of an attribute, values numbered as in the association's rows (S7)."""
    scored = answers.facts.attributes[screen.attribute.column]
    place = {value: number for number, value in enumerate(screen.attribute.values)}
    code_of = np.array([place.get(value, -1) for value in scored.values] + [-1], np.int64)
    return grouping(
        answers.truth, context.names.names, screen.attribute.column, screen.attribute.values, code_of[scored.codes]
    )


# -- a finding ---------------------------------------------------------------------------------------------------------


def attribute_finding(context: Context, cue: AttributeCue) -> Finding:
    """The finding of a class and an attribute's value: association, counterfactual, verdict, words and samples."""
    screen, k = cue.screen, cue.k
    association = building.attribute_association(context, screen, cue.place, k)
    codes = screen.attribute.codes[context.scan.sample]
    having = np.where(codes < 0, -1, (codes == cue.value).astype(np.int64))
    # directions are chosen with labels, so on the half that no effect is measured on
    strength = context.differences(np.where(context.sampled.discovery, having, -1))
    members, signs = carrying(context, strength, k)
    counterfactual, own, others, heads = _counterfactual(context, cue, members, strength)
    named_cue = _cue(context, cue, having, members, heads, association.d.value)
    evidence = VerdictCase(
        association=association,
        attributes=True,
        classes_from=context.classes_from,
        arm=None if counterfactual is None else counterfactual.arms[0],
        own=own,
        others=others,
    )
    outcome = verdict(evidence)
    name = context.name(k)
    scores = _scores(context, members, signs, having)
    observed = outcome is Verdict.OBSERVED
    own = int(context.design.counts[k])
    missing = labels_needed(association, own) if observed else _to_collect(screen, k, cue.value)
    return Finding(
        id=finding_id(str(context.run.manifest.model["name"]), name, f"{screen.attribute.column}={cue.word}"),
        rank=0,
        verdict=outcome,
        sentence=sentence(evidence, outcome, name, cue.word),
        action=action(outcome, name, cue.word, missing),
        class_name=name,
        label=context.label(k),
        cue=named_cue,
        association=association,
        counterfactual=counterfactual,
        cells=building.attribute_cells(context, screen, k),
        distributions=building.distributions(
            context, _label(context, members, named_cue), scores, k, screen.attribute.values, codes
        ),
        evidence=_evidence(context, scores, k),
        false_alarm=_false_alarm(name, cue.word, context),
        needs=needs(evidence, name, cue.word) if outcome in (Verdict.INCONCLUSIVE, Verdict.OBSERVED) else (),
        stability=building.finding_stability(context, np.where(having == 1, 1.0, 0.0), k),
        gallery=building.gallery(context, scores, k, heads, having, _lacking_and_having(screen, cue.value)),
        merged=len(members),
    )


def carrying(context: Context, strength: Float64s, k: int) -> tuple[Ints, Float64s]:
    """Flagged directions of class k that go with a value inside classes, strongest first, and their ends (-1 or 1).

    strength: (M,) D of the value along every direction, inside classes.
    """
    M = len(context.scan.directions)
    d = context.family.d[:M, k]
    goes = (np.abs(strength) >= _CARRIES) & ((np.sign(strength) == np.sign(d)) & context.flagged[:M, k])
    if not goes.any():  # the class is not associated with the value: take the directions that carry the value
        goes = np.abs(strength) >= _CARRIES
    members = np.flatnonzero(goes)
    members = members[np.argsort(-np.abs(strength[members]), kind="stable")]
    return members, np.sign(strength[members])


def _counterfactual(
    context: Context, cue: AttributeCue, members: Ints, strength: Float64s
) -> tuple[Counterfactual | None, int, int, tuple[str, ...]]:
    """The counterfactual, the sizes of both sides of the conflict, and the heads."""
    carriers = tuple(dict.fromkeys(context.scan.directions[m].head for m in members.tolist()))
    if context.answers is None:
        return None, 0, 0, carriers
    answers, k = context.answers, int(context.tested[cue.k])
    groups = scored_groups(context, answers, cue.screen)
    cue_groups = CueGroups(k=k, value=cue.value, grouping=groups)
    discovery = answers.facts.discovery & (groups.group >= 0)
    rows = ~answers.facts.discovery & (groups.group >= 0)
    conflict = conflict_of(groups.take(rows), k, cue.value)
    if not rows.any() or not discovery.any():
        return None, conflict.own, conflict.others, carriers
    heads = choose_heads(answers, cue_groups, discovery)
    directions = head_directions(context, heads, strength)
    options = context.options
    arms = tuple(
        arm(
            name,
            answers,
            cue_groups,
            heads,
            directions,
            rows,
            discovery,
            n_min=options.n_min,
            sets=options.random_sets,
            seed=options.seed,
            level=cue.level,
        )
        for name in ("whole heads", "direction only")
    )
    after = answers.right(answers.without(heads))
    before = describe_groups(
        groups.take(rows),
        answers.right(answers.base)[rows],
        f"{context.answers_rows}, confirmation half",
        n_min=options.n_min,
        seed=options.seed,
        train=train_counts(context, cue.screen),
        after=after[rows],
        cluster=answers.facts.cluster[rows],
    )
    counterfactual = Counterfactual(
        rows=f"{context.answers_rows}, confirmation half",
        discovery=f"{context.answers_rows}, discovery half",
        mean_source=answers.mean_source,
        groups=cue.screen.attribute.column,
        corrected=False,
        arms=arms,
        before=before,
    )
    return counterfactual, conflict.own, conflict.others, heads or carriers


def head_directions(context: Context, heads: Sequence[str], strength: Float64s) -> dict[str, Float64s]:
    """The unit direction (dh,) of each head along which a value's strength (M,) is largest, with its class part (S10).

    Not class-free: by construction a class-free direction adds nothing to the logits.
    """
    unit_directions: dict[str, Float64s] = {}
    for m in np.argsort(-np.abs(strength), kind="stable").tolist():
        direction = context.scan.directions[m]
        length = float(np.linalg.norm(direction.plain))
        if direction.head in heads and length > 0:
            unit_directions.setdefault(direction.head, direction.plain / length)
    return unit_directions


def train_counts(context: Context, screen: AttributeScreen) -> Ints:
    """(C * V,) int64 images of the association by class and value; 0 for classes that are not tested."""
    V = len(screen.attribute.values)
    counts = np.zeros((len(context.names), V), np.int64)
    counts[context.tested] = screen.counts
    return counts.ravel()


def _cue(
    context: Context,
    cue: AttributeCue,
    having: Ints,
    members: Ints,
    heads: Sequence[str],
    d: float | None,
) -> Cue:
    discovery = context.sampled.discovery
    contrast = value_contrast(
        context.embedding[discovery],
        context.truth[discovery],
        having[discovery] == 1,
        having[discovery] >= 0,
        context.design.classes,
    )
    towards = context.namer.words(contrast, 3, context_only=True)
    away_from = context.namer.words(-contrast, 1, context_only=True)
    words = [CueWord(text=cue.word, property="attribute", kind="context-like", head=None, d=d)]
    words += [CueWord(text=w.text, property=w.property, kind=w.kind, head=None, d=None) for w in towards]
    words += building.head_words(context, heads, members, having, cue.k)
    title = f"{cue.word}: {towards[0].text}" if towards else cue.word
    return Cue(
        name=title,
        words=tuple(words),
        opposite=away_from[0].text if away_from else None,
        heads=tuple(heads),
        attribute=cue.screen.attribute.column,
        value=cue.word,
        class_part=context.scan.directions[int(members[0])].outside if len(members) else None,
    )


def _scores(context: Context, members: Ints, signs: Float64s, having: Ints) -> Float32s:
    """(s,) scores of the sample along the direction that goes most with the value."""
    if not len(members):
        return having.astype(np.float32)
    scores: Float32s = context.scores(context.scan.directions[int(members[0])]) * np.float32(signs[0])
    return scores


def _label(context: Context, members: Ints, cue: Cue) -> str:
    return f"{cue.name} ({context.scan.directions[int(members[0])].head})" if len(members) else cue.name


def _evidence(context: Context, scores: Float32s, k: int) -> tuple[Evidence, ...]:
    by_environment = building.finding_stability(context, scores, k)
    if by_environment is None or by_environment.i_squared is None:
        return (not_measured(),)
    return (
        not_measured(),
        Evidence(
            name="stability",
            supports=None,
            value=by_environment.i_squared,
            sentence="Along the cue's strongest direction the class differs alike in"
            f" {len(by_environment.environments)} environments (I² = {100 * by_environment.i_squared:.0f} %).",
        ),
    )


def _false_alarm(name: str, value: str, context: Context) -> tuple[str, ...]:
    column = f"The column may be wrong: look at the conflicting images. It was taken as it is, for {context.rows}."
    if context.classes_from != "label":
        return (building.guess_warning(context, name, value), column)
    return (
        f"If {name} always comes with {value} wherever the model will be used, the cue is useful there.",
        "Only direct effects of the audited heads are measured: what later layers read from them, and what MLPs add,"
        " stays as it is.",
        column,
    )


def _to_collect(screen: AttributeScreen, k: int, value: int) -> int | None:
    """Images of the class without the value to collect, so that the value's share is that in the other classes.

    At most as many as have the value; None when there are enough.
    """
    others = screen.counts.sum(axis=0) - screen.counts[k]
    share = others[value] / max(int(others.sum()), 1)
    having, lacking = int(screen.counts[k, value]), int(screen.counts[k].sum() - screen.counts[k, value])
    if share <= 0.0:
        share = 0.5
    balanced_count = having * (1 - share) / share
    return min(max(int(np.ceil(balanced_count)) - lacking, 0), having) or None


def _lacking_and_having(screen: AttributeScreen, value: int) -> tuple[str, str]:
    """Words for images without and with a value."""
    values = screen.attribute.values
    lacking = values[1 - value] if len(values) == 2 else f"not {values[value]}"
    return lacking, values[value]
