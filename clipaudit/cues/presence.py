"""Audits of runs whose images have several labels: each label against the images without it (docs/method.md 8).

Every label is an audit of two classes, images with it and images without, whose tests are one family over all labels.
Other labels are columns of it. Of the labels that go most with a column a probe of presence is rehearsed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import pyarrow as pa

from clipaudit.arrays import Bools, Float64s
from clipaudit.cues.findings.all_findings import findings_of
from clipaudit.cues.findings.sentences import listed
from clipaudit.cues.findings.value_cues import value_cues
from clipaudit.cues.inconclusive import inconclusive
from clipaudit.cues.inputs import Images
from clipaudit.cues.measure.context import Context, Presence, Progress
from clipaudit.cues.measure.hygiene import hygiene
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.measure.labelled_images import LabelledImages
from clipaudit.cues.overview import differences, points
from clipaudit.cues.rehearse_labels import MOST_REHEARSED, LabelProbes
from clipaudit.cues.result.finding_parts import Verdict
from clipaudit.cues.result.panels import (
    AttributeTable,
    ClassDifference,
    ClassFacts,
    Controls,
    Data,
    Dropped,
    Hygiene,
    LeftOut,
    MapPoint,
    Settings,
    Trust,
)
from clipaudit.cues.result.result import AuditResult, Finding
from clipaudit.cues.row_tables import presence_tables, spuriosity
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.intervals import GATE
from clipaudit.cues.statistics.screen import MIN_INDEPENDENT
from clipaudit.cues.summary import column_table, open_values, ranked
from clipaudit.cues.trust_panel import run_controls, trust_of
from clipaudit.run.classes import ClassNames
from clipaudit.run.reader import Run

MAX_LABELS: Final = 100
"""That are tested, the most frequent ones: 10,000 labels would each need a pass over all heads."""
_OTHERS: Final = 10
"""Other labels that are columns of a label's audit: those that go with it most on the discovery half."""
_LEAST_PHI: Final = 0.05
_LABELS: Final = "labels."
"""Before the names of columns that say whether an image has another label."""
_POINTS: Final = 300
_DIFFERENCES: Final = 20
_REASONS: Final = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class _Tried:
    """What is kept of a label's own tests while those of the others are computed."""

    label: int
    largest: Float64s
    tests: int
    has_findings: bool
    """Whether a test passes beside those of the label alone: with all labels no more can."""
    tie: float
    """Lower limit of D of the column's value that goes most with the label; 0 where none passes."""
    points: tuple[MapPoint, ...]
    reasons: tuple[str, ...]
    tables: tuple[AttributeTable, ...]


@dataclass(eq=False, kw_only=True)
class PresenceAudit:
    """The audit of all labels; `context_for` makes one label's tests."""

    run: Run
    images: LabelledImages
    rows: str
    """Which, in words."""
    settings: Settings
    versions: dict[str, str]
    max_findings: int
    measured: tuple[str, ...]
    """The image properties, which nobody declared."""
    context_for: Callable[[ClassNames, int, Images, Presence], Context]
    """(two names, label, images with classes 0 and 1, presence) -> tests."""
    rehearse: bool
    """Whether probes are trained at all."""
    test_run: Run | None = None
    dropped: list[Dropped] = field(default_factory=list)
    _labels: int = 0

    def result(self, progress: Progress) -> AuditResult:
        """All labels, one after the other, twice where the first look has something to say."""
        images = self.images
        tested = self._tested()
        if not tested:
            return self._untested()
        self._labels = len(tested)
        tried: list[_Tried] = []
        for done, label in enumerate(tested):
            progress("labels", done, len(tested))
            tried.append(self._tried(label))
        progress("labels", len(tested), len(tested))
        findings: list[Finding] = []
        tables: dict[str, pa.Table] = {}
        unlike: list[ClassDifference] = []
        dots: list[MapPoint] = []
        with_findings = [each for each in tried if each.has_findings]
        probes = LabelProbes(images, {each.label: each.tie for each in tried}, self.rehearse, self.settings.seed)
        for done, each in enumerate(with_findings):
            progress("findings", done, len(with_findings))
            others = [other.largest for other in tried if other is not each and len(other.largest)]
            probe, why_not = probes.of(each.label)
            context = self._context(each.label, np.max(others, axis=0) if others else np.zeros(1), why_not)
            found = findings_of(context, None, lambda what, done, total: None, probe)
            own = found.findings
            probes.columns += found.columns
            findings += own
            tables |= {finding.id: spuriosity(context, finding) for finding in own}
            unlike += differences(context, own)
            dots += points(context, own)[: _POINTS // len(tested)]
        progress("findings", len(with_findings), len(with_findings))
        dots += [dot for each in tried if not each.has_findings for dot in each.points]
        chosen = ranked(_each_pair_once(findings), self.max_findings)
        scores = [tables[finding.id] for finding in chosen if finding.id in tables]
        facts = self._hygiene()
        trust = self._trust(tested, sum(each.tests for each in tried), facts, progress)
        reasons = self._undecided(tested, tried)
        verdict = chosen[0].verdict if chosen else Verdict.INCONCLUSIVE if facts.failed_shards or reasons else None
        return replace(
            self._nothing(),
            verdict=verdict,
            sentence=self._answer(chosen, tested, trust[1], facts, reasons),
            findings=chosen,
            map=tuple(dots[:_POINTS]),
            classes=self._classes(tested),
            attributes=_strongest_tables(tried),
            differences=tuple(sorted(unlike, key=lambda each: -(each.d.low or 0.0))[:_DIFFERENCES]),
            hygiene=facts,
            controls=trust[0],
            trust=trust[1],
            dropped=tuple(dict.fromkeys(self.dropped)),
            rehearsal=probes.panel(self.rows),
            data=self._data(probes.panel(self.rows) is not None),
            rows=presence_tables(images.by_list, images.list_names, chosen, scores, list(images.raw)),
        )

    def _untested(self) -> AuditResult:
        """The result when no label has enough images: nothing was tested, which is no pass."""
        images = self.images
        sentence = (
            f"Inconclusive: no label has {MIN_INDEPENDENT} independent images with it and {MIN_INDEPENDENT} without it"
            f" among {len(images.facts):,} images."
        )
        result = self._nothing()
        trust = replace(result.trust, limits=(sentence,))
        return replace(result, sentence=sentence, classes=self._classes([]), trust=trust, hygiene=self._hygiene())

    def _nothing(self) -> AuditResult:
        """The result of an audit that has tested nothing."""
        return inconclusive(
            self.run,
            self.test_run,
            self.images.list_names,
            self.images.by_list,
            None,
            np.empty(0, np.int64),
            left_out=(LeftOut(unnamed=0, ambiguous=0), None),
            settings=self.settings,
            versions=self.versions,
        )

    # -- labels --------------------------------------------------------------------------------------------------------

    def _tested(self) -> list[int]:
        """Labels with enough independent images on either side, the most frequent first; at most MAX_LABELS."""
        images = self.images
        frequent = [label for label in np.argsort(-images.counts, kind="stable").tolist() if images.counts[label]]
        tested: list[int] = []
        for label in frequent:
            if images.counts[label] < MIN_INDEPENDENT or len(tested) == MAX_LABELS:
                break
            has = images.has(label)
            if min(images.independent(has), images.independent(~has)) >= MIN_INDEPENDENT:
                tested.append(label)
        return tested

    def _context(self, label: int, largest: Float64s | None, why_not: str = "") -> Context:
        """One label's tests; `largest` of the permutations of all other labels' tests, None while unknown; why_not:
        why no model of it is measured."""
        images, name = self.images, self.images.names.names[label]
        facts = images.facts.of_classes(np.where(images.has(label), 0, 1).astype(np.int64))
        others = self._others(label, facts)
        attributes = {column: _column(column, other, images.has(code)) for column, (code, other) in others.items()}
        pair = ClassNames(
            labels=(name, f"not {name}"),
            names=(f"images with `{name}`", f"images without `{name}`"),
            source=images.names.source,
        )
        return self.context_for(
            pair,
            label,
            Images(
                facts=replace(facts, attributes={**facts.attributes, **attributes}),
                test=None,
                raw={**images.raw, **attributes},
                ranges=dict(images.ranges),
                unbinned=facts,
                left_out=(LeftOut(unnamed=0, ambiguous=0), None),
            ),
            Presence(
                label=name,
                others={column: other for column, (_, other) in others.items()},
                labels=self._labels,
                largest=largest,
                why_not=why_not,
            ),
        )

    def _others(self, label: int, facts: ImageFacts) -> dict[str, tuple[int, str]]:
        """Column -> (label, name) of the labels that go with one, or keep apart from it, most: by phi on the discovery
        half, so that the half that is tested has no say. Labels that no image has together are alternatives, and no
        cues of each other."""
        images, half = self.images, facts.discovery
        own = (facts.truth == 0)[half].astype(np.float64)
        rows = images.present[half].astype(np.bool_).astype(np.float64)
        n = float(half.sum())
        share = np.asarray(rows.sum(axis=0)).ravel() / max(n, 1.0)
        both = np.asarray(rows.T @ own).ravel() / max(n, 1.0)
        spread = np.sqrt(share * (1 - share) * own.mean() * (1 - own.mean()))
        phi = np.abs(np.divide(both - share * own.mean(), spread, out=np.zeros_like(share), where=spread > 0))
        phi[label] = 0
        together = np.asarray(images.present.T.astype(np.int64) @ (facts.truth == 0).astype(np.int64)).ravel() > 0
        enough = together & (np.minimum(images.counts, len(facts) - images.counts) >= MIN_INDEPENDENT)
        chosen = [code for code in np.argsort(-phi, kind="stable")[:_OTHERS].tolist() if phi[code] >= _LEAST_PHI]
        names = images.names.names
        return {_label_column(names[code]): (code, names[code]) for code in chosen if enough[code]}

    def _tried(self, label: int) -> _Tried:
        context = self._context(label, None)
        tables = tuple(
            column_table(context, screen, test)
            for screen, test in zip(context.attributes, context.columns, strict=True)
            if screen.attribute.column in self.images.raw
        )
        few = min(int(n) for n in context.design.independent) < GATE
        ties = [
            float(context.family.limits[context.row_of(cue.screen, cue.place), 0])
            for cue in value_cues(context)
            if cue.screen.attribute.column in self.images.raw
        ]
        return _Tried(
            label=label,
            largest=context.largest.largest,
            tests=context.family.p.size,
            has_findings=bool(context.passed.any()),
            tie=max(ties, default=0.0),
            points=points(context, ())[: max(1, _POINTS // max(int((self.images.counts > 0).sum()), 1))],
            reasons=() if few else open_values(context),
            tables=tables,
        )

    # -- the parts of the result ---------------------------------------------------------------------------------------

    def _classes(self, tested: list[int]) -> tuple[ClassFacts, ...]:
        images = self.images
        return tuple(
            ClassFacts(
                class_name=name,
                label=label,
                n=int(images.counts[code]),
                independent=images.independent(images.has(code)) if images.counts[code] else 0,
                tested=code in set(tested),
                accuracy=None,
            )
            for code, (label, name) in enumerate(zip(images.names.labels, images.names.names, strict=True))
        )

    def _hygiene(self) -> Hygiene:
        counts = self.images.counts[self.images.counts > 0]
        balance = float(counts.min() / counts.max()) if len(counts) else 0.0
        return replace(hygiene(self.images.by_list, None, self.images.list_names), balance=balance)

    def _trust(self, tested: list[int], tests: int, facts: Hygiene, progress: Progress) -> tuple[Controls, Trust]:
        """Controls on the label with the most images on its smaller side, and how far findings may be trusted."""
        images = self.images
        sides = [min(int(images.counts[label]), len(images.facts) - int(images.counts[label])) for label in tested]
        label = tested[int(np.argmax(sides))]
        context = self._context(label, None)
        controls = run_controls(context, progress)
        trust = trust_of(context, controls, facts, None)
        limits = (
            "Images have several labels: each is compared with the images without it. Of the labels that go most with a"
            f" column, at most {MOST_REHEARSED}, a model trained on these images is measured; CLIP is not.",
            f"Controls were run on images with and without `{images.names.names[label]}`.",
            *trust.limits,
        )
        return controls, replace(trust, tests=tests, limits=limits)

    def _undecided(self, tested: list[int], tried: list[_Tried]) -> tuple[str, ...]:
        """Why an audit without findings is no pass, one sentence each."""
        images = self.images
        few = [
            images.names.names[label]
            for label in tested
            if min(images.independent(images.has(label)), images.independent(~images.has(label))) < GATE
        ]
        untested = int((images.counts > 0).sum()) - len(tested)
        reasons = []
        if few:
            which = f"{listed(few)} {'has' if len(few) == 1 else 'have'}"
            reasons.append(f"{which} fewer than {GATE} independent images with it or without it")
        if untested:
            verb = "label was" if untested == 1 else "labels were"
            reasons.append(
                f"{untested} {verb} not tested (fewer than {MIN_INDEPENDENT} images, or beyond the 100 tested)"
            )
        return (*reasons, *dict.fromkeys(reason for each in tried for reason in each.reasons))[:_REASONS]

    def _answer(
        self, findings: tuple[Finding, ...], tested: list[int], trust: Trust, facts: Hygiene, reasons: tuple[str, ...]
    ) -> str:
        if not trust.valid:
            return f"This audit is not valid: {trust.problems[0]}"
        missing = f" {facts.failed_shards} shards of the run are missing, so that this is not the whole data set."
        tail = missing if facts.failed_shards else ""
        if findings:
            more = len(findings) - 1
            others = (
                f" There {'is' if more == 1 else 'are'} {more} more finding{'s' if more > 1 else ''}." if more else ""
            )
            return f"{findings[0].sentence}{others}{tail}"
        open_ = f" That is not decided: {'; '.join(reasons)}." if reasons else ""
        labels = (
            "the label that was tested" if len(tested) == 1 else f"any of the {len(tested)} labels that were tested"
        )
        return (
            f"No shortcut cue was found for {labels} ({trust.tests:,} tests on {len(self.images.facts):,} images, least"
            f" |D| {self.settings.delta_warn:g}).{open_}{tail}"
        )

    def _data(self, trained: bool) -> Data:
        facts, scored = self.images.facts, (self.images.scored or self.images).facts
        return Data(
            association=self.rows,
            counterfactual=f"{scored.run.directory.url}{scored.rows.described}" if trained else None,
            rows=len(facts),
            counterfactual_rows=len(scored) if trained else 0,
            discovery_rows=0,
            confirmation_rows=0,
            clusters=int(facts.cluster.max(initial=-1)) + 1,
            attributes=tuple(column for column in self.images.raw if column not in self.measured),
            image_properties=self.measured,
            evidence=Verdict.CONFIRMED if trained else Verdict.TIED,
            left_out=LeftOut(unnamed=0, ambiguous=0),
            test_left_out=None,
        )


def _column(column: str, name: str, has: Bools) -> Attribute:
    """Whether images (n,) have another label, as a column."""
    return Attribute(column=column, values=(f"no {name}", name), codes=has.astype(np.int64))


def _each_pair_once(findings: Sequence[Finding]) -> list[Finding]:
    """The findings, two labels that go together or keep apart once: of the label that says more of the other."""
    strongest: dict[object, Finding] = {}
    for finding in findings:
        column = finding.cue.attribute or ""
        key: object = finding.id
        if column.startswith(_LABELS):
            key = frozenset({column, _label_column(str(finding.label).removeprefix("not "))})
        other = strongest.get(key)
        if other is None or (finding.association.d.low or 0.0) > (other.association.d.low or 0.0):
            strongest[key] = finding
    return list(strongest.values())


def _label_column(name: str) -> str:
    """The column that says whether an image has a label; what follows its last dot is shown."""
    return _LABELS + name.replace(".", "_")


def _strongest_tables(tried: Sequence[_Tried]) -> tuple[AttributeTable, ...]:
    """Of each declared column the table of the label that it goes with most."""
    strongest: dict[str, AttributeTable] = {}
    for table in (table for each in tried for table in each.tables):
        other = strongest.get(table.attribute)
        if other is None or (table.cramers_v or 0.0) > (other.cramers_v or 0.0):
            strongest[table.attribute] = table
    return tuple(strongest.values())
