"""A spurious-cue audit from a run to its result: read, test, decide, control."""

from __future__ import annotations

import copy
import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from clipaudit.arrays import Bools, Float32s, Ints
from clipaudit.cues.answer_table import answer_tables
from clipaudit.cues.answerers.panel import Panel, panel_of
from clipaudit.cues.answerers.predictions import Predictions
from clipaudit.cues.findings.all_findings import findings_of
from clipaudit.cues.findings.by_text import with_shift
from clipaudit.cues.findings.label_parts import doubtful_labels
from clipaudit.cues.findings.reliance_result import placebo_of
from clipaudit.cues.findings.slice_parts import errors_of
from clipaudit.cues.inconclusive import inconclusive
from clipaudit.cues.inputs import AuditInputs, Images
from clipaudit.cues.measure.answers import Answers, answers
from clipaudit.cues.measure.context import Context, Presence, Progress, TextSource
from clipaudit.cues.measure.core_values import check_core
from clipaudit.cues.measure.directions import all_directions, class_subspace
from clipaudit.cues.measure.hygiene import hygiene
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.measure.naming import Namer
from clipaudit.cues.measure.scan import Scan, scan
from clipaudit.cues.measure.shift import shift_between
from clipaudit.cues.measure.tested_columns import tested_columns
from clipaudit.cues.measure.unlabelled import own_answers
from clipaudit.cues.options import AuditOptions
from clipaudit.cues.presence import PresenceAudit
from clipaudit.cues.result.panels import Dropped
from clipaudit.cues.result.result import AuditResult
from clipaudit.cues.row_tables import row_tables
from clipaudit.cues.settings import settings_of, versions
from clipaudit.cues.side_by_side import both
from clipaudit.cues.statistics.design import Design
from clipaudit.cues.statistics.predictability import one_thread_each
from clipaudit.cues.statistics.screen import MIN_INDEPENDENT
from clipaudit.cues.summary import assemble, class_sizes, ranked
from clipaudit.heads.texts.pool import TextPool, pool_for
from clipaudit.run.classes import ClassNames
from clipaudit.run.reader import Run, RunPlace, opened
from clipaudit.run.rows import moments_over, row_filter


@dataclass(frozen=True, eq=False, kw_only=True)
class _Part:
    """The n images whose classes are tested, and what CLIP answers for the scored ones."""

    tested: Ints
    """(K,) classes, among all."""
    inside: Ints
    """(n,) places among the images of the association."""
    facts: ImageFacts
    design: Design
    vectors: Float32s
    """(T, D) of the pool's texts."""
    user: Float32s | None
    """(U, D) of the user's texts; None without any."""
    answers: Answers | None
    """None without labels."""
    answers_rows: str
    """Of which images, in words."""


def _silent(what: str, done: int, total: int) -> None:
    """Nothing."""


def audit_cues(
    run: RunPlace,
    options: AuditOptions | None = None,
    *,
    test_run: RunPlace | None = None,
    texts: TextSource | None = None,
    pool: TextPool | None = None,
    on_progress: Progress = _silent,
) -> AuditResult:
    """Find the cues that classes depend on, in words, with evidence (docs/method.md 7 and 8).

    run: with labels, or captions that name classes; associations are measured on its rows (`options.where`).
    test_run: another run of the same model whose rows are scored with and without each cue; by default `run` itself,
        with `options.test_where`.
    texts: where text vectors come from; by default the run's own model.
    pool: texts, instead of those of `options.texts`.
    on_progress: told `(step, done, total)`.

    Raises UsageError for a mistake that a user can mend (no labels or captions, fewer than two classes, a column that
    does not exist, a classes file that does not match) and RunNotFound. With too few images the result is
    `inconclusive`.

    >>> result = audit_cues("demo-out/birds-run", AuditOptions(attributes=("place",), permutations=0, random_sets=200))
    >>> result.table("findings").num_rows == len(result.findings)
    True
    """
    began = time.monotonic()
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    job = _Job(opened(run), options or AuditOptions(), None if test_run is None else opened(test_run), texts, pool)
    # one pool of threads at a time: arrays of an audit are small, and spinning helpers cost more than they save
    with one_thread_each():
        result = job.result(on_progress)
    return replace(result, started=started, seconds=round(time.monotonic() - began, 3))


class _Job(AuditInputs):
    """One audit: its inputs, checked, and its steps in order."""

    def __init__(
        self, run: Run, options: AuditOptions, test_run: Run | None, texts: TextSource | None, pool: TextPool | None
    ) -> None:
        super().__init__(run, options, test_run, texts)
        self.pool = pool if pool is not None else pool_for(str(run.manifest.model["name"]), options.texts)
        self.dropped: list[Dropped] = []
        self.presence: Presence | None = None
        self.named = self.prompts
        """Names that no cue may have."""

    def result(self, progress: Progress) -> AuditResult:
        """All steps."""
        if self.several_labels:
            return self._presence_result(progress)
        images = self.images()
        facts, test = images.facts, images.test
        given = self.given()
        named = [{name: part.attributes[name] for name in images.raw} for part in (facts, test) if part is not None]
        check_core(self.options.core, [images.raw, *named], {*self.pool.texts, *self.options.user_texts})
        tested = np.flatnonzero(class_sizes(facts, len(self.names))[1] >= MIN_INDEPENDENT)
        settings = settings_of(self.options, self.pool, self.names, self.classes_from, several_labels=False)
        if len(tested) < 2:
            return inconclusive(
                self.run,
                self.test_run,
                self.names,
                facts,
                test,
                tested,
                left_out=images.left_out,
                settings=settings,
                versions=versions(),
            )
        part = self._part(images, tested)
        context, panel = both(
            lambda: self._context(images, part, progress), lambda: self._panel(part, given, out_of_fold=test is None)
        )
        everything = findings_of(context, panel, progress)
        findings = ranked(everything.findings, self.options.max_findings)
        shift = None if test is None else shift_between(context, test, findings, self.pool, self.texts)
        findings = tuple(with_shift(finding, shift) for finding in findings)
        columns = [screen.attribute.column for screen in context.attributes]
        progress("errors", 0, 1)
        slices, doubtful = errors_of(context, panel, images.unbinned), doubtful_labels(context, panel)
        progress("errors", 1, 1)
        return assemble(
            context,
            findings,
            test_run=self.test_run,
            settings=settings,
            versions=versions(),
            dropped=tuple(self.dropped),
            shift=shift,
            errors=slices.errors,
            labels=doubtful.labels,
            hygiene=hygiene(facts, test, self.names),
            placebo=placebo_of(everything.placebo),
            rehearsal=everything.rehearsal,
            given=everything.given,
            everything=facts,
            left_out=images.left_out,
            rows=row_tables(context, findings, facts, test, columns, slices=slices.rows, doubtful=doubtful.rows)
            | answer_tables(context, panel, findings),
            progress=progress,
        )

    def _presence_result(self, progress: Progress) -> AuditResult:
        """The same where images have several labels: each label against the images without it."""
        images = self.labelled_images()
        # another label may be a cue, and by the user's word part of what this one means
        words = {*self.pool.texts, *self.options.user_texts, *self.names.names}
        check_core(self.options.core, [images.raw, images.facts.attributes], words)
        audit = PresenceAudit(
            run=self.run,
            images=images,
            rows=f"{self.run.directory.url}{self.rows.described}",
            settings=settings_of(self.options, self.pool, self.names, self.classes_from, several_labels=True),
            versions=versions(),
            max_findings=self.options.max_findings,
            measured=self.measured,
            context_for=self._label_context,
            rehearse=self.options.rehearse,
            test_run=self.test_run,
            dropped=self.dropped,
        )
        return audit.result(progress)

    def _label_context(self, pair: ClassNames, label: int, images: Images, presence: Presence) -> Context:
        """The tests of one label: images with it, class 0, against those without, class 1."""
        own = copy.copy(self)
        vector = self.class_vectors[label]
        # nothing is called "without a dog": what the label's name does not say is the other end of its axis
        own.names, own.class_vectors = pair, np.stack([vector, -vector])
        own.named = (presence.label, *presence.others.values())
        own.columns, own.presence, own.dropped = (*self.columns, *presence.others), presence, []
        if not self.options.permutations:  # else the largest of all labels' tests is what p-values count (S3)
            own.options = replace(self.options, alpha=self.options.alpha / presence.labels)
        context = own._context(images, own._part(images, np.arange(2)), _silent)
        self.dropped += [
            replace(entry, reason=f"{pair.names[0]}: {entry.reason}") for entry in own.dropped if entry.head is None
        ]
        return context

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _part(self, images: Images, tested: Ints) -> _Part:
        """What every test and answerer needs, of the tested classes (K,); texts are encoded here."""
        options, facts, test = self.options, images.facts, images.test
        self.pool.require(1)
        inside = np.flatnonzero(np.isin(facts.truth, tested))
        tested_facts = facts.take(inside)
        scored, by = test if test is not None else facts, next(iter(self.columns), None)
        scores = self.classes_from == "label" and self.presence is None
        answered = (
            answers(scored, self.run.head_labels, self.class_vectors, seed=options.seed, by=by) if scores else None
        )
        which = f"{scored.run.directory.url}{scored.rows.described}"
        return _Part(
            tested=tested,
            inside=inside,
            facts=tested_facts,
            design=_design(tested_facts, tested, len(self.names)),
            vectors=self.texts.vectors(self.pool.texts),
            user=self.texts.vectors(options.user_texts) if options.user_texts else None,
            answers=answered,
            answers_rows=which if answered is None else which + answered.drawn_from(int((scored.truth >= 0).sum()), by),
        )

    def _panel(self, part: _Part, given: Sequence[Predictions], *, out_of_fold: bool) -> Panel | None:
        """All answerers; None without labels."""
        if part.answers is None:
            return None
        return panel_of(
            part.facts,
            part.design,
            part.answers,
            len(self.names),
            self.options,
            out_of_fold=out_of_fold,
            given=given,
        )

    def _context(self, images: Images, part: _Part, progress: Progress) -> Context:
        options, run, facts, classes = self.options, self.run, part.facts, self.class_vectors
        scanned = self._scan(part, progress)
        columns = tested_columns(
            facts,
            images.raw,
            part.inside[scanned.sample],
            part.design,
            scanned.sample,
            declared=self.columns,
            measured=self.measured,
            chosen_by=row_filter(run, self.rows).equalities,
            source_name=self.source_name,
            alpha=options.alpha,
            seed=options.seed,
        )
        self.dropped += columns.dropped
        return Context(
            run=run,
            options=options,
            names=self.names,
            classes_from=self.classes_from,
            classes=classes,
            namer=Namer(self.pool, part.vectors, self.named, classes, options.user_texts, part.user),
            facts=facts,
            rows=f"{run.directory.url}{self.rows.described}",
            tested=part.tested,
            design=part.design,
            source=self.source,
            sources=self.sources,
            scan=scanned,
            attributes=columns.screens,
            ranges=images.ranges,
            measured=self.measured,
            columns=columns.tests,
            known_errors=self.known_errors,
            answers=part.answers,
            answers_rows=part.answers_rows,
            presence=self.presence,
            agreement=self._agreement(images.facts),
        )

    def _scan(self, part: _Part, progress: Progress) -> Scan:
        """Every direction's scores on the tested images."""
        options, run = self.options, self.run
        directions, lost = all_directions(
            moments_over(run, self.rows),
            run.basis(),
            run.head_labels,
            self.pool,
            part.vectors,
            self.class_vectors,
            per_head=min(options.directions, len(self.pool)),
            user=options.user_texts,
            user_vectors=part.user,
        )
        self.dropped += [
            Dropped(what=direction.text, head=direction.head, reason="indistinguishable from the class prompt")
            for direction in lost
        ]
        return scan(
            part.facts,
            part.design,
            directions,
            class_subspace(self.class_vectors),
            trials=options.positive_trials,
            seed=options.seed,
            regress=self.presence is None or self.presence.largest is not None,
            on_head=lambda done, total: progress("heads", done, total),
        )

    def _agreement(self, facts: ImageFacts) -> tuple[Ints, Bools] | None:
        """(n,) classes that captions name, and whether CLIP answers the same."""
        if self.classes_from != "caption":
            return None
        answered = own_answers(self.run, self.names, self.class_vectors)[facts.position]
        return facts.truth, answered == facts.truth

    @property
    def source_name(self) -> str | None:
        """The column that the audit found to be a source."""
        return None if self.source is None else self.source.name


def _design(facts: ImageFacts, tested: Ints, classes: int) -> Design:
    """Of the images of the tested classes (K,) among all."""
    local = np.full(classes, -1, np.int64)
    local[tested] = np.arange(len(tested))
    repeated = int(facts.cluster.max(initial=-1)) + 1 < len(facts)
    return Design(local[facts.truth], len(tested), facts.cluster if repeated else None, facts.source, facts.discovery)
