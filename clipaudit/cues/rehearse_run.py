"""A rehearsal by itself: what a model would learn from a run's columns, without an audit of its heads (S14)."""

from __future__ import annotations

from typing import Final

import numpy as np

from clipaudit.arrays import Ints
from clipaudit.cues.answerers.rehearsed import rehearsed_answerer
from clipaudit.cues.findings.measured_reliance import having_of, scored_values
from clipaudit.cues.findings.rehearsal_panel import RehearsedValue, rehearsal_panel
from clipaudit.cues.inputs import AuditInputs, Images
from clipaudit.cues.measure.answers import MAX_ROWS, sampled
from clipaudit.cues.measure.declared_columns import own_design
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.options import AuditOptions
from clipaudit.cues.rehearse_labels import images_scored, labels_rehearsed
from clipaudit.cues.reliance.images import CueColumn, RelianceOptions
from clipaudit.cues.result.rehearsal_parts import RehearsalPanel
from clipaudit.cues.statistics.attribute import Attribute
from clipaudit.cues.statistics.attributes import AttributeScreen, attribute_screen, names_class, unusable
from clipaudit.cues.statistics.design import Design
from clipaudit.cues.statistics.predictability import one_thread_each
from clipaudit.errors import UsageError
from clipaudit.run.reader import RunPlace, opened

_LEAST_TIE: Final = 0.1
"""D below which a value hardly goes with classes."""


def rehearse_run(
    run: RunPlace, options: AuditOptions | None = None, *, test_run: RunPlace | None = None
) -> RehearsalPanel:
    """Train a linear probe on a run's images, in five ways for every column of `options.attributes` (S14).

    Of the options those that choose classes, columns, rows and clusters count, `margin` and `seed`. The probe is
    trained on the rows of `options.split` with `train` and scored on the others, or scored on `test_run`; without
    either each fifth of the images is scored by a probe of the others.

    Where images have several labels, presence of each is learned, and all figures are AUCs: of the labels and columns
    that go together most, at most ten.

    Raises UsageError without a column, without labels, and for a column from which nothing can be learned: unknown,
    without two values, or one that determines the class.

    >>> rehearse_run("demo-out/birds-run", AuditOptions(attributes=("place",), split="split")).columns[0].arms[0].name
    'as it is'
    """
    inputs = AuditInputs(opened(run), options or AuditOptions(), None if test_run is None else opened(test_run), None)
    if not inputs.columns:
        raise UsageError("a rehearsal needs a column that says which images have a cue: --attribute place")
    if inputs.classes_from != "label":
        raise UsageError("a rehearsal trains on labels: --classes-from caption and clip have none")
    if inputs.several_labels:
        with one_thread_each():
            return labels_rehearsed(
                inputs,
                lambda facts, name, raw: _screen(inputs, facts, name, raw),
                lambda screen, place, scored: _value(screen, scored, 2, np.arange(2), place),
            )
    images = inputs.images()
    truth = images.facts.truth
    tested = np.flatnonzero(np.bincount(truth[truth >= 0], minlength=len(inputs.names)) >= 2)
    if len(tested) < 2:
        have = f"has {inputs.names.names[int(tested[0])]} alone" if len(tested) else "has no class with two images"
        raise UsageError(f"the training part {have}: a model needs images of at least two classes")
    # one pool of threads at a time, as in an audit: fits have their own, and helpers of linear algebra would spin
    with one_thread_each():
        return _rehearsed(inputs, images, tested)


def _rehearsed(inputs: AuditInputs, images: Images, tested: Ints) -> RehearsalPanel:
    """Of the classes (K,) that have two images."""
    test, classes = images.test, len(inputs.names)
    facts = images.facts.take(np.isin(images.facts.truth, tested))
    screens = [_screen(inputs, facts, name, images.raw[name]) for name in inputs.columns]
    scored = sampled(test if test is not None else facts, MAX_ROWS, inputs.options.seed, inputs.columns[0])
    rehearsed = rehearsed_answerer(facts, scored, classes, out_of_fold=test is None, seed=inputs.options.seed)
    named_sources = inputs.options.cluster is not None
    scored_images = images_scored(scored, classes, named_sources)
    return rehearsal_panel(
        rehearsed,
        scored_images,
        [_value(screen, scored, classes, tested, _place(screen)) for screen in screens],
        inputs.names.names,
        at_hand=len(facts),
        rows=f"{inputs.run.directory.url}{facts.rows.described}",
        options=RelianceOptions(margin=inputs.options.margin, seed=inputs.options.seed),
    )


def _screen(inputs: AuditInputs, facts: ImageFacts, name: str, raw: Attribute) -> AttributeScreen:
    """A column against the classes; UsageError where nothing can be learned from it."""
    column = facts.attributes[name]
    tested, local = np.unique(facts.truth, return_inverse=True)
    reason = unusable(raw)
    if reason is None and names_class(column, local.astype(np.int64)):
        reason = (
            "every value occurs in one class only, so that no image goes against it: what a model would learn from it"
            " cannot be told; collect at least 30 images of each class that do"
        )
    if reason is None:
        design = Design(local.astype(np.int64), len(tested), facts.cluster, facts.source, facts.discovery)
        source_name = None if inputs.source is None else inputs.source.name
        screen = attribute_screen(column, own_design(design, column, source_name))
        if screen is not None:
            return screen
        reason = "a class has fewer than 10 images with a value"
    raise UsageError(f"--attribute {name.removeprefix('attributes.')}: {reason}")


def _place(screen: AttributeScreen) -> int:
    """The value that goes most with classes; of a column of two values the rarer one."""
    if len(screen.values) == 2:
        return int(np.argmin(screen.counts.sum(axis=0)[screen.values]))
    return int(np.argmax([cut.d for cut in screen.screen.cuts[: len(screen.values)]]))


def _value(screen: AttributeScreen, scored: ImageFacts, classes: int, tested: Ints, place: int) -> RehearsedValue:
    """One of the tested values, by its place."""
    cuts = screen.screen.cuts[: len(screen.values)]
    value = int(screen.values[place])
    word = screen.attribute.values[value]
    pointed, among = np.zeros(classes, np.bool_), np.zeros(classes, np.bool_)
    pointed[tested[cuts[place].upper]], among[tested] = True, True
    having = having_of(scored_values(scored, screen.attribute), value)
    cue = CueColumn(name=f"{screen.attribute.column}={word}", having=having, pointed=pointed, tested=among)
    return RehearsedValue(
        column=screen.attribute.column,
        value=value,
        word=word,
        cue=cue,
        tied=float(screen.screen.limits[place, 0]) > 0 and cuts[place].d > _LEAST_TIE,
    )
