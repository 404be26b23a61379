"""A rehearsal by itself where images have several labels: a probe of presence of each label (S14)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from clipaudit.cues.answerers.panel import LEAST_OF_CLASS, LEAST_TRAINING
from clipaudit.cues.answerers.rehearsed import RehearsedAnswerer
from clipaudit.cues.findings.label_probe import LabelProbe
from clipaudit.cues.findings.label_rehearsal import (
    TrainedLabel,
    label_answerer,
    label_column,
    label_panel,
    trained_label,
)
from clipaudit.cues.findings.rehearsal_panel import RehearsedValue
from clipaudit.cues.inputs import AuditInputs
from clipaudit.cues.measure.answers import MAX_ROWS, sampled
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.measure.labelled_images import LabelledImages
from clipaudit.cues.reliance.images import ScoredImages
from clipaudit.cues.result.rehearsal_parts import ColumnRehearsal, RehearsalPanel
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.attributes import AttributeScreen
from clipaudit.errors import UsageError

MOST_PAIRS: Final = 10
"""Labels and columns that are rehearsed: the pairs that go together most."""

MOST_REHEARSED: Final = 10
"""Labels of which a report trains a probe: hundreds of trainings each, and p-values are multiplied by their number."""

ScreenOf = Callable[[ImageFacts, str, Attribute], AttributeScreen]
"""(images in two classes, column, column before bins) -> tests of its values; UsageError where it teaches nothing."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Pair:
    label: int
    screen: AttributeScreen
    place: int
    """Among the tested values: the one that images with the label have most, beyond others."""


def labels_rehearsed(
    inputs: AuditInputs, screen_of: ScreenOf, value_of: Callable[[AttributeScreen, int, ImageFacts], RehearsedValue]
) -> RehearsalPanel:
    """Of the labels with enough images, those that go most with a column of `inputs`.

    value_of: (screen, place among its values, scored images in two classes) -> what is rehearsed. UsageError where no
    label has enough images, or none can be learned from with any column.
    """
    images = inputs.labelled_images()
    pairs, seed = _pairs(inputs, images, screen_of)[:MOST_PAIRS], inputs.options.seed
    trained: list[TrainedLabel] = []
    columns: dict[_Pair, ColumnRehearsal] = {}
    for label in dict.fromkeys(pair.label for pair in pairs):  # one probe is held at a time
        probe = probe_of(images, label, seed)
        trained.append(trained_label(probe))
        scored = images_scored(probe.scored, 2, inputs.options.cluster is not None)
        for pair in (each for each in pairs if each.label == label):
            value = value_of(pair.screen, pair.place, probe.scored)
            columns[pair] = label_column(probe, scored, value, images.names.names[label], seed)
    rows = f"{inputs.run.directory.url}{images.facts.rows.described}"
    return label_panel(trained, [columns[pair] for pair in pairs], at_hand=len(images.facts), rows=rows)


class LabelProbes:
    """The probes of an audit of several labels: of those that go most with a column, and have enough images."""

    def __init__(self, images: LabelledImages, ties: Mapping[int, float], rehearse: bool, seed: int) -> None:
        """ties: lower limit of D of the column's value that goes most with each label, 0 where none does."""
        self._images, self._rehearse, self._seed = images, rehearse, seed
        tied = sorted((label for label, tie in ties.items() if tie > 0), key=lambda label: -ties[label])
        self._chosen = [label for label in tied if too_few(images, label) is None][:MOST_REHEARSED]
        self._trained: list[TrainedLabel] = []
        self.columns: list[ColumnRehearsal] = []
        """What training in other ways does to them, filled by whoever measures them."""

    def of(self, label: int) -> tuple[LabelProbe | None, str]:
        """A label's probe, else why there is none."""
        if not self._rehearse:
            return None, "it was left out (--no-rehearse)"
        if (few := too_few(self._images, label)) is not None:
            return None, few
        if label not in self._chosen:
            return None, f"only the {MOST_REHEARSED} labels that go most with a column are"
        try:
            rehearsed = probe_of(self._images, label, self._seed)
        except UsageError as error:
            return None, str(error)
        self._trained.append(trained_label(rehearsed))
        name = self._images.names.names[label]
        return LabelProbe(name=name, rehearsed=rehearsed, labels=len(self._chosen)), ""

    def panel(self, rows: str) -> RehearsalPanel | None:
        """Everything that was trained; None where nothing was. rows: of the association, in words."""
        if not self._trained:
            return None
        return label_panel(self._trained, self.columns, at_hand=len(self._images.facts), rows=rows)


def probe_of(images: LabelledImages, label: int, seed: int) -> RehearsedAnswerer:
    """The probe of one label, scored on the other images where there are some, else out of fold; UsageError where the
    training images that are left are all with it or all without."""
    training = images.of_label(label)
    scored = training if images.scored is None else images.scored.of_label(label)
    scored = sampled(scored, MAX_ROWS, seed, next(iter(images.raw), None))
    return label_answerer(training, scored, out_of_fold=images.scored is None, seed=seed)


def images_scored(facts: ImageFacts, classes: int, named_sources: bool) -> ScoredImages:
    """Images of C classes as they are scored; named_sources: the user named a column of sources."""
    return ScoredImages(
        truth=facts.truth,
        classes=classes,
        cluster=facts.source if facts.source is not None else facts.cluster,
        discovery=facts.discovery,
        sources=facts.source is not None or named_sources,
    )


def too_few(images: LabelledImages, label: int) -> str | None:
    """Why no probe of a label is trained, in words; None where it can be."""
    n, own = len(images.facts), int(images.counts[label])
    if n < LEAST_TRAINING or min(own, n - own) < LEAST_OF_CLASS:
        return (
            f"{n:,} training images, {own:,} with the label, are too few: {LEAST_TRAINING} and {LEAST_OF_CLASS} of"
            " either side are needed"
        )
    return None


def _pairs(inputs: AuditInputs, images: LabelledImages, screen_of: ScreenOf) -> list[_Pair]:
    """Labels and columns, those that go together most first."""
    reasons, found = [], []
    for label in np.flatnonzero(images.counts).tolist():
        if (reason := too_few(images, label)) is not None:
            reasons.append(f"{images.names.names[label]}: {reason}")
            continue
        facts = images.of_label(label)
        for name in inputs.columns:
            try:
                screen = screen_of(facts, name, images.raw[name])
            except UsageError as error:
                reasons.append(str(error))
                continue
            cuts = screen.screen.cuts[: len(screen.values)]
            with_label = [place for place, cut in enumerate(cuts) if cut.upper[0]]
            place = max(with_label or range(len(cuts)), key=lambda number: cuts[number].d)
            found.append((float(screen.screen.limits[place, 0]), _Pair(label=label, screen=screen, place=place)))
    if not found:
        raise UsageError(f"no label can be rehearsed: {reasons[0] if reasons else 'no image has one'}")
    return [pair for _, pair in sorted(found, key=lambda item: -item[0])]
