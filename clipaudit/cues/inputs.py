"""What an audit or a rehearsal is made of: the run's classes, the images of the association, the scored ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from clipaudit.arrays import Float32s
from clipaudit.cues.answerers.predictions import Predictions, parse_predictions, read_predictions
from clipaudit.cues.measure.context import TextSource
from clipaudit.cues.measure.declared_columns import SPLIT, in_bins, of_source, sources_of
from clipaudit.cues.measure.image_facts import ImageFacts, image_facts
from clipaudit.cues.measure.labelled_images import LabelledImages, labelled_images
from clipaudit.cues.measure.picture_columns import measured_columns
from clipaudit.cues.measure.unlabelled import caption_classes, classes_source, own_answers
from clipaudit.cues.options import AuditOptions
from clipaudit.cues.result.finding_parts import ClassesFrom
from clipaudit.cues.result.panels import LeftOut
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.known_error import KnownError, parse_attribute
from clipaudit.cues.statistics.sources import SourceTest
from clipaudit.errors import UsageError
from clipaudit.heads.texts.mentions import NONE, SEVERAL
from clipaudit.heads.texts.prompts import load_templates
from clipaudit.heads.texts.vectors import RunTexts
from clipaudit.run.classes import ClassNames, find_classes, listed_classes, named_differently
from clipaudit.run.reader import Run
from clipaudit.run.rows import Rows, chosen_rows, group_column, require_rows, split_filters
from clipaudit.schema import Label


@dataclass(frozen=True, eq=False, kw_only=True)
class Images:
    """The images of both parts, columns in bins, and what the audit found to be their source."""

    facts: ImageFacts
    """Of the association."""
    test: ImageFacts | None
    """That are scored, when they are others."""
    raw: dict[str, Attribute]
    """The association's columns before they were cut into bins."""
    ranges: dict[str, str]
    """Names of ends of image properties -> what they hold."""
    unbinned: ImageFacts
    """The images that are scored, with their columns as they are: numbers are not in bins."""
    left_out: tuple[LeftOut, LeftOut | None]


class AuditInputs:
    """A run, the options and another run to score, checked against each other."""

    def __init__(self, run: Run, options: AuditOptions, test_run: Run | None, texts: TextSource | None) -> None:
        self.run, self.options, self.test_run = run, options, test_run
        self.texts: TextSource = texts if texts is not None else RunTexts(run)
        if test_run is not None and test_run.manifest.model["fingerprint"] != run.manifest.model["fingerprint"]:
            raise UsageError(f"the runs at {run.directory.url} and {test_run.directory.url} are of different models")
        self.classes_from: ClassesFrom = classes_source(run, options.classes_from)
        if test_run is not None:
            classes_source(test_run, self.classes_from)
            self._refuse_other_numbers(test_run)
        self.class_of: dict[Label, int] = {}
        listed = self._names()
        self.prompts = listed.names
        """What the classes are called in prompts."""
        # captions and CLIP's answers find a class by its name; with labels two classes of one name are two
        self.names = told_apart(listed) if self.classes_from == "label" else listed
        given = [parse_attribute(name) for name in options.attributes]
        self.columns = _once(options.attributes, [group_column(run, name) for name, _ in given])
        self.known_errors = known_errors(run, self.columns) | {
            group_column(run, name): error for name, error in given if error is not None
        }
        if "label" in self.columns:
            raise UsageError("the label cannot be its own attribute: give another column")
        self.measured = measured_columns([run, *([] if test_run is None else [test_run])], self.columns)
        self.where, self.test_where = options.where, options.test_where
        if options.split is not None:
            train, others = split_filters(run, options.split)
            self.where = (*self.where, train)
            # another run is scored whole
            self.test_where = self.test_where if test_run is not None else (*self.test_where, others)
        self.rows = chosen_rows(run, self.where)
        self.source: SourceTest | None = None
        self.sources: tuple[SourceTest, ...] = ()

    def images(self) -> Images:
        """Read and checked; a source that is found among them is in `source` from then on."""
        facts, left_out = self._facts(self.run, self.rows)
        require_rows(self.run, self.rows, len(facts))
        test, test_left_out = self._test_facts()
        if self.options.cluster is None and len(facts) > 1:
            self.source, self.sources = sources_of(facts, self.options.seed)
        if self.source is not None:
            name = self.source.name
            facts, test = of_source(facts, name), None if test is None else of_source(test, name)
        every = (*self.columns, *self.measured)
        raw = {name: facts.attributes[name] for name in every}
        unbinned = facts if test is None else test
        facts, test, ranges = in_bins(facts, test, every)
        return Images(
            facts=facts, test=test, raw=raw, ranges=ranges, unbinned=unbinned, left_out=(left_out, test_left_out)
        )

    def given(self) -> list[Predictions]:
        """The user's predictions, read; UsageError without labels, which alone say which are right."""
        asked = self.options.predictions
        if asked and self.classes_from != "label":
            raise UsageError("--predictions needs labels: without them nobody can say which answers are right")
        models = [parse_predictions(text)[0] for text in asked]
        if len(set(models)) < len(models):
            raise UsageError("--predictions has two models of one name")
        shards = (self.test_run or self.run).manifest.shards
        return [read_predictions(text, self.names, shards, self.options.scores) for text in asked]

    @property
    def several_labels(self) -> bool:
        """Whether classes are labels of which an image may have several."""
        return self.classes_from == "label" and self.run.spec.multi_label

    def labelled_images(self) -> LabelledImages:
        """The same where images have several labels; UsageError for predictions, or another run of one label."""
        if self.options.predictions:
            raise UsageError(
                "--predictions is for one answer an image, which is not right or wrong where images have several labels"
            )
        if self.test_run is not None and not self.test_run.spec.multi_label:
            raise UsageError(f"the images of {self.test_run.directory.url} have one label each, those audited several")
        facts, _ = self._facts(self.run, self.rows)
        require_rows(self.run, self.rows, len(facts))
        every = (*self.columns, *self.measured)
        raw = {name: facts.attributes[name] for name in every}
        binned, test, ranges = in_bins(facts, self._test_facts()[0], every)
        images = labelled_images(binned, self.names, raw, ranges)
        if test is not None:
            images = replace(images, scored=labelled_images(test, self.names, raw, ranges))
        if self.options.cluster is None and len(facts) > 1:
            # centred by the label that parts the images best, for few images have the same list
            likeness = np.abs(images.counts - len(facts) / 2)
            halves = images.has(int(np.argmin(likeness))).astype(np.int64)
            self.source, self.sources = sources_of(replace(facts, truth=halves), self.options.seed)
        if self.source is not None:
            name, scored = self.source.name, images.scored
            images = replace(
                images,
                facts=of_source(images.facts, name),
                scored=None if scored is None else replace(scored, facts=of_source(scored.facts, name)),
            )
        return images

    # -- classes -------------------------------------------------------------------------------------------------------

    def _refuse_other_numbers(self, test_run: Run) -> None:
        """UsageError when class numbers of the scored run mean other classes, by the names beside its shards."""
        if self.options.classes is not None or self.run.spec.label_kind not in ("int", "ints"):
            return
        shards = [shard.url for run in (self.run, test_run) for shard in run.manifest.shards]
        if (contradiction := named_differently(shards)) is not None:
            raise UsageError(
                f"{contradiction}: class numbers of the two runs mean different things: pack their images together, or"
                " give --classes, the names that hold for both"
            )

    def _names(self) -> ClassNames:
        """The classes; of labels also which class each is, in `class_of`."""
        run, shards = self.run, [shard.url for shard in self.run.manifest.shards]
        if self.classes_from != "label":
            return listed_classes(self.options.classes, shards)
        labels = run.class_labels()
        names = find_classes(self.options.classes, shards, labels)
        if len([label for label in labels if label is not None]) < 2 and not run.spec.multi_label:
            raise UsageError(f"an audit compares classes, and the run at {run.directory.url} has one")
        self.class_of.update(names.rows(labels).items())
        return names

    @cached_property
    def class_vectors(self) -> Float32s:
        """(C, D)"""
        return self.texts.classes(self.prompts, load_templates(self.options.templates))

    def _named(self, facts: ImageFacts) -> ImageFacts:
        """The images with the classes that their captions name, or that CLIP answers."""
        if self.classes_from == "label":
            return facts
        where = f"of the run at {facts.run.directory.url}{facts.rows.described}"
        if self.classes_from == "caption":
            classes = caption_classes(facts.run, self.names)
            complaint = (
                f"no caption {where} names one class of {self.names.source}: write the classes as the captions do"
            )
        else:
            classes = own_answers(facts.run, self.names, self.class_vectors)
            complaint = f"every answer {where} is a name of several classes of {self.names.source}: give each its own"
        named = facts.of_classes(classes[facts.position])
        if len(facts) and not (named.truth >= 0).any():
            raise UsageError(complaint)
        return named

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _facts(self, run: Run, rows: Rows) -> tuple[ImageFacts, LeftOut]:
        extra = [group_column(run, self.options.environment)] if self.options.environment else []
        cluster = group_column(run, self.options.cluster) if self.options.cluster else None
        if SPLIT.removeprefix("attributes.") in run.attributes:
            extra.append(SPLIT)
        columns = tuple(dict.fromkeys([*(group_column(run, name) for name in self.columns), *self.measured, *extra]))
        facts = self._named(image_facts(run, rows, self.class_of, columns, cluster))
        if self.several_labels:
            return facts, LeftOut(unnamed=0, ambiguous=0)
        unnamed, ambiguous = (int((facts.truth == code).sum()) for code in (NONE, SEVERAL))
        return facts.take(facts.truth >= 0), LeftOut(unnamed=unnamed, ambiguous=ambiguous)

    def _test_facts(self) -> tuple[ImageFacts | None, LeftOut | None]:
        """The images that are scored or compared, when they are others than those of the association."""
        if self.test_run is None and not self.test_where:
            return None, None
        run = self.test_run if self.test_run is not None else self.run
        rows = chosen_rows(run, self.test_where)
        if self.classes_from == "label":
            unknown = [label for label in run.label_counts() if label is not None and label not in self.class_of]
            self.class_of.update(self.names.rows(unknown).items())
        facts, left_out = self._facts(run, rows)
        require_rows(run, rows, len(facts))
        return facts, left_out


def told_apart(names: ClassNames) -> ClassNames:
    """The classes with their labels beside the names that several have: `missile (657)`."""
    called = zip(names.names, names.labels, names.shares_name, strict=True)
    return replace(names, names=tuple(f"{name} ({label})" if shared else name for name, label, shared in called))


def known_errors(run: Run, columns: Sequence[str]) -> dict[str, KnownError]:
    """What columns that were joined with a measured error rate say of themselves, by full name."""
    records = {name: run.joined.get(name.removeprefix("attributes.")) for name in columns}
    return {
        name: KnownError(rate=record.error_rate, images=record.error_images)
        for name, record in records.items()
        if record is not None and record.error_rate is not None and record.error_images is not None
    }


def _once(given: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """The columns of the values of --attribute; UsageError when two of them name one column."""
    for place, column in enumerate(columns):
        first = columns.index(column)
        if first < place:
            raise UsageError(
                f"--attribute {given[first]} and --attribute {given[place]} are the same column: give it once, with its"
                " known error if it has one"
            )
    return tuple(columns)
