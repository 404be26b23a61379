"""How far each answerer hangs on each value: from the scored images to the result's numbers and the rules' answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clipaudit.arrays import Bools, Float32s, Ints
from clipaudit.cues.answerers.panel import Panel
from clipaudit.cues.answerers.rehearsed import RehearsedAnswerer
from clipaudit.cues.answerers.reliance_of import reliance_of
from clipaudit.cues.findings.verdicts import RelianceRules
from clipaudit.cues.measure.answers import Answers
from clipaudit.cues.measure.context import Context
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.mistakes.label_issues import label_issues
from clipaudit.cues.rehearsal.cue_in_features import cue_scores
from clipaudit.cues.rehearsal.experiment import ColumnExperiment, Read, column_experiments, draws_for
from clipaudit.cues.reliance import rules
from clipaudit.cues.reliance.images import CueColumn, OtherColumn, RelianceOptions, ScoredImages
from clipaudit.cues.reliance.training_effect import RetrainedAnswers
from clipaudit.cues.result.column_words import is_measured, value_word
from clipaudit.cues.result.finding_parts import Estimate
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.attributes import AttributeScreen
from clipaudit.cues.statistics.columns import MAX_BINS, OTHER, binned_column
from clipaudit.cues.statistics.groups import Grouping, grouping
from clipaudit.cues.statistics.known_error import corrected_cells
from clipaudit.cues.statistics.right import answered, right_answers


@dataclass(frozen=True, eq=False, kw_only=True)
class ValueCue:
    """A value of an attribute, and the classes that have it."""

    screen: AttributeScreen
    place: int
    """Among the tested values."""
    upper: Bools
    """(K,) tested classes that have it."""
    associated: bool
    """Its cut passes; else it is here because the model's answers differ along it."""
    also: tuple[str, ...] = ()
    """Of an image property: other ends that part the classes in the same way, more weakly."""

    @property
    def value(self) -> int:
        """Among the attribute's values."""
        return int(self.screen.values[self.place])

    @property
    def word(self) -> str:
        """The value's name."""
        return self.screen.attribute.values[self.value]

    @property
    def ends(self) -> tuple[str, str]:
        """What images without it have, and those with it: the column's other value where there are two."""
        values = self.screen.attribute.values
        lacking = values[1 - self.value] if len(values) == 2 else f"not {self.word}"
        return lacking, self.word

    @property
    def said(self) -> str:
        """The value in a sentence: with its column where it says nothing alone."""
        return value_word(self.screen.attribute.column, self.word)

    @property
    def name(self) -> str:
        """Column and value."""
        return f"{self.screen.attribute.column}={self.word}"


def scored_images(context: Context, facts: ImageFacts) -> ScoredImages:
    """The scored images; clusters are sources where the audit found some, or the user named a column of few."""
    sources = facts.source is not None or context.named_sources
    return ScoredImages(
        truth=facts.truth,
        classes=len(context.names),
        cluster=facts.groups,
        discovery=facts.discovery,
        sources=sources,
    )


def scored_values(facts: ImageFacts, attribute: Attribute) -> Ints:
    """(n,) place among the association's values, those of `attribute`, of each scored image, -1 for none."""
    scored = facts.attributes[attribute.column]
    place = {value: number for number, value in enumerate(attribute.values)}
    # values that the association's rows lack count as unknown; the last place is that of code -1
    code_of = np.array([place.get(value, -1) for value in scored.values] + [-1], np.int64)
    return code_of[scored.codes]


def scored_groups(context: Context, answers: Answers, screen: AttributeScreen) -> Grouping:
    """The scored images by class and value of an attribute, in the association's values."""
    codes = scored_values(answers.facts, screen.attribute)
    return grouping(answers.truth, context.names.names, screen.attribute.column, screen.attribute.values, codes)


def having_of(codes: Ints, value: int) -> Ints:
    """(n,) 1 with a value, 0 with another, -1 without any."""
    return np.where(codes < 0, -1, (codes == value).astype(np.int64))


@dataclass(frozen=True, eq=False, kw_only=True)
class AllMeasured:
    """What reliance_of says of all cues."""

    findings: tuple[tuple[rules.MeasuredReliance, ...], ...]
    """By cue and answerer; nothing without labels."""
    placebo: rules.PlaceboDraws | None


def measure_reliance(
    context: Context, panel: Panel | None, cues: Sequence[ValueCue], experiments: Mapping[str, ColumnExperiment]
) -> AllMeasured:
    """By cue and answerer, all together, and how often permuted columns are believed; experiments: of the cues'
    columns."""
    if context.answers is None or panel is None or not cues:
        return AllMeasured(findings=tuple(() for _ in cues), placebo=None)
    facts, rehearsed = context.answers.facts, panel.rehearsed
    report = reliance_of(
        panel.answerers,
        [cue_column(context, facts, cue) for cue in cues],
        scored_images(context, facts),
        columns=other_columns(context, facts, cues),
        retrained={} if rehearsed is None else {rehearsed.name: retrained_answers(rehearsed, cues, experiments)},
        options=replace(reliance_options(context), label_error=wrong_labels(rehearsed)),
    )
    findings = tuple(
        tuple(
            replace(part, corrected_gap=corrected_gap_of(context, cue, answerer.logits))
            for answerer, part in zip(panel.answerers, parts, strict=True)
        )
        for cue, parts in zip(cues, report.findings, strict=True)
    )
    return AllMeasured(findings=findings, placebo=report.placebo)


def corrected_gap_of(context: Context, cue: ValueCue, logits: Float32s) -> Estimate | None:
    """The gap of an answerer's logits (n, C) of the scored images, corrected for the column's known error (S6c), its
    value None where it cannot be; None where no error was given."""
    error = context.known_errors.get(cue.screen.attribute.column)
    if error is None or context.answers is None:
        return None
    answers, codes = context.answers, scored_values(context.answers.facts, cue.screen.attribute)
    place = np.full(len(context.names), -1, np.int64)
    place[context.tested] = np.arange(len(context.tested))
    inside = (place[answers.truth] >= 0) & answered(logits)
    # as the gap itself: images of one source share its weight, and sources are what is drawn again
    scored = scored_images(context, answers.facts)
    gap = corrected_cells(
        codes[inside],
        place[answers.truth[inside]],
        scored.cluster[inside],
        cue.value,
        cue.upper,
        len(cue.screen.attribute.values),
        error,
        source=scored.cluster[inside] if scored.sources else None,
        right=right_answers(logits, answers.truth)[inside],
        seed=context.options.seed,
    ).gap
    return Estimate(value=None, low=None, high=None, n=0) if gap is None else gap


def wrong_labels(probe: RehearsedAnswerer | None) -> float | None:
    """Estimated share of wrong labels among the scored images, 0..1 (S16); None where nothing was rehearsed.

    From the probe as it is: that it errs where a cue is missing makes its margins small there, and not as low as those
    of wrong labels.
    """
    rows = np.flatnonzero(answered(probe.logits)) if probe is not None else ()
    if probe is None or not len(rows):
        return None
    return label_issues(probe.logits[rows], probe.scored.truth[rows]).wrong_share


def reliance_options(context: Context) -> RelianceOptions:
    """The limits of the rules, from the audit's options."""
    options = context.options
    return RelianceOptions(
        margin=options.margin,
        delta=options.delta_warn,
        alpha=options.alpha,
        clean_labels=options.clean_labels,
        random_sets=options.random_sets,
        seed=options.seed,
    )


def column_experiments_of(
    rehearsed: RehearsedAnswerer | None, names: Sequence[str], cues: int, seed: int, read: Read | None = None
) -> dict[str, ColumnExperiment]:
    """S10r of the columns of a number of cues, by column: a probe trained again with its weights, and with those of
    permuted columns; nothing where nothing was trained. Whole sources exchange values. read: what is kept of answers,
    None for which are right."""
    if rehearsed is None or not names:
        return {}
    facts = rehearsed.training
    experiments = column_experiments(
        rehearsed.rehearsal,
        facts.truth,
        facts.groups,
        [facts.attributes[name] for name in names],
        rehearsed.scored.truth,
        draws_for(cues),
        seed,
        read,
    )
    return dict(zip(names, experiments, strict=True))


def retrained_answers(
    rehearsed: RehearsedAnswerer, cues: Sequence[ValueCue], experiments: Mapping[str, ColumnExperiment]
) -> list[RetrainedAnswers]:
    """What training again does to each cue; experiments: by column."""
    answers = []
    for cue in cues:
        attribute = rehearsed.training.attributes[cue.screen.attribute.column]
        experiment = experiments[attribute.column]
        seen, taught_by = cue_scores(rehearsed.rehearsal, having_of(attribute.codes, cue.value))
        answers.append(
            RetrainedAnswers(
                before=experiment.before,
                after=experiment.after,
                drawn_before=experiment.drawn_before,
                drawn=experiment.drawn,
                training_rows=experiment.training_rows,
                seen=seen,
                taught_by=taught_by,
            )
        )
    return answers


def cue_column(context: Context, facts: ImageFacts, cue: ValueCue) -> CueColumn:
    """A value as a cue of the scored images."""
    pointed, tested = (np.zeros(len(context.names), np.bool_) for _ in range(2))
    pointed[context.tested], tested[context.tested] = cue.upper, True
    text: Float32s | None = context.namer.vector_of(cue.word)
    return CueColumn(
        name=cue.name,
        having=having_of(scored_values(facts, cue.screen.attribute), cue.value),
        pointed=pointed,
        tested=tested,
        text=text,
        measured=is_measured(cue.screen.attribute.column),
    )


def other_columns(context: Context, facts: ImageFacts, cues: Sequence[ValueCue]) -> list[OtherColumn]:
    """The declared columns that the scored images have and that may explain a cue's gap (S9b)."""
    return [
        _other_column(context, facts, screen, [cue.name for cue in cues if cue.screen is screen])
        for screen in context.attributes
        if screen.attribute.column not in context.core_columns
        # what is measured on the pixels follows from the cue, and explains nothing
        and not is_measured(screen.attribute.column)
        and screen.attribute.column in facts.attributes
    ]


def _other_column(context: Context, facts: ImageFacts, screen: AttributeScreen, of: Sequence[str]) -> OtherColumn:
    """A declared column in at most five bins, and which bin goes with which class in the association's rows."""
    values = screen.attribute.values
    codes = scored_values(facts, screen.attribute)
    cut = binned_column(Attribute(column=screen.attribute.column, values=values, codes=codes), MAX_BINS)
    bin_of = np.array([_bin(cut.names, value, cut.pooled) for value in values], np.int64)
    V = max(len(cut.names), 1)
    counts = np.zeros((len(context.names), V))
    for value, place in enumerate(bin_of.tolist()):
        if place >= 0:
            counts[context.tested, place] += screen.counts[:, value]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # a bin goes with a class where its share is above the mean share in the other classes
    others = (share.sum(axis=0) - share) / max(len(context.tested) - 1, 1)
    return OtherColumn(name=screen.attribute.column, codes=cut.codes, aligned=share > others, of=tuple(of))


def _bin(names: Sequence[str], value: str, pooled: bool) -> int:
    return names.index(value) if value in names else names.index(OTHER) if pooled else -1


# -- values that a model hangs on though they go with no class ---------------------------------------------------------


def pointed_by_model(context: Context, answers: Answers, cue_codes: Ints) -> Bools | None:
    """(K,) the tested classes towards which the answers move with a value (n,) 1, 0, -1, inside classes, on the
    discovery half: those above the largest step between classes; None where it cannot be told."""
    rows = answers.facts.discovery & (cue_codes >= 0)
    logits = answers.base[:, context.tested]
    # what all classes gain alike changes no answer
    logits = logits - logits.mean(axis=1, keepdims=True)
    moves = []
    for k in context.tested.tolist():
        inside = rows & (answers.truth == k)
        having, lacking = inside & (cue_codes == 1), inside & (cue_codes == 0)
        if min(int(having.sum()), int(lacking.sum())) >= 5:
            moves.append(logits[having].mean(axis=0) - logits[lacking].mean(axis=0))
    if not moves:
        return None
    move = np.mean(moves, axis=0)
    order = np.argsort(-move, kind="stable")
    steps = move[order][:-1] - move[order][1:]
    upper = np.zeros(len(move), np.bool_)
    upper[order[: int(np.argmax(steps)) + 1]] = True
    return upper


# -- to the rules -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the rules say of one answerer, with what the user said of the class."""

    answerer: str
    relies_on_it: bool
    fails_where: bool
    needed: bool
    does_not_hang_on_it: bool


def judged(measured: rules.MeasuredReliance, core: bool) -> RelianceRules:
    """The rules' answers; what the user called part of the class is not asked for again."""
    return Judged(
        answerer=measured.answerer,
        relies_on_it=measured.relies_on_it,
        fails_where=measured.fails_where,
        needed=measured.needed and not core,
        does_not_hang_on_it=measured.does_not_hang_on_it,
    )
