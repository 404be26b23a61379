"""The result of an audit with too few images to test: inconclusive, with the images still needed, and never a pass."""

from __future__ import annotations

from typing import Final

import numpy as np

from clipaudit.arrays import Ints
from clipaudit.cues.measure.controls import LIMIT
from clipaudit.cues.measure.hygiene import hygiene
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.result.finding_parts import Verdict
from clipaudit.cues.result.panels import ClassFacts, Controls, Data, LeftOut, NegativeControl, Settings, Trust
from clipaudit.cues.result.result import SCHEMA_VERSION, AuditResult
from clipaudit.cues.statistics.screen import MIN_INDEPENDENT
from clipaudit.cues.summary import class_sizes, run_names
from clipaudit.run.classes import ClassNames
from clipaudit.run.reader import Run

_LISTED_CLASSES: Final = 5
"""Classes that the sentence names."""


def inconclusive(
    run: Run,
    test_run: Run | None,
    names: ClassNames,
    facts: ImageFacts,
    test: ImageFacts | None,
    tested: Ints,
    *,
    left_out: tuple[LeftOut, LeftOut | None],
    settings: Settings,
    versions: dict[str, str],
) -> AuditResult:
    """The result when fewer than two classes have 10 independent images: nothing was tested, which is no pass.

    facts: the association's images; test: those that are scored, when they are others; tested: (K,) classes with enough
    images, K < 2.
    """
    counts, independent = class_sizes(facts, len(names))
    sentence = _sentence(names, counts, independent, tested)
    return AuditResult(
        schema_version=SCHEMA_VERSION,
        **run_names(run, test_run),
        verdict=Verdict.INCONCLUSIVE,
        sentence=sentence,
        findings=(),
        map=(),
        classes=_classes(names, counts, independent),
        attributes=(),
        differences=(),
        groups=(),
        predictability=(),
        shift=None,
        errors=(),
        labels=None,
        rehearsal=None,
        given=(),
        hygiene=hygiene(facts, test, names),
        controls=_no_controls(facts),
        trust=_trust(run, sentence),
        dropped=(),
        data=_data(run, facts, left_out),
        settings=settings,
        versions=versions,
        started="",
        seconds=0.0,
    )


def _sentence(names: ClassNames, counts: Ints, independent: Ints, tested: Ints) -> str:
    # where one class alone has images, those without any are what is missing
    compared = np.flatnonzero(counts) if (counts > 0).sum() > 1 else np.arange(len(names))
    untested = [k for k in compared.tolist() if k not in set(tested.tolist())]
    missing = ", ".join(f"{names.names[k]}: {MIN_INDEPENDENT - independent[k]}" for k in untested[:_LISTED_CLASSES])
    return (
        f"Inconclusive: {len(tested)} of {len(compared)} classes have {MIN_INDEPENDENT} independent images or"
        f" more, and two are needed. Images still needed: {missing}."
    )


def _classes(names: ClassNames, counts: Ints, independent: Ints) -> tuple[ClassFacts, ...]:
    return tuple(
        ClassFacts(
            class_name=name,
            label=names.labels[k],
            n=int(counts[k]),
            independent=int(independent[k]),
            tested=False,
            accuracy=None,
        )
        for k, name in enumerate(names.names)
    )


def _no_controls(facts: ImageFacts) -> Controls:
    negative = NegativeControl(
        audits=0, mean_findings=0.0, share_with_any=0.0, limit=LIMIT, rows=len(facts), valid=True
    )
    return Controls(negative=negative, positive=())


def _trust(run: Run, sentence: str) -> Trust:
    return Trust(
        valid=True,
        problems=(),
        tests=0,
        directions=0,
        heads=len(run.head_labels),
        accuracy=None,
        near_chance=False,
        mean_source=None,
        placebo=None,
        level=0.95,
        sources=(),
        embedding_share=0.0,
        limits=(sentence,),
    )


def _data(run: Run, facts: ImageFacts, left_out: tuple[LeftOut, LeftOut | None]) -> Data:
    return Data(
        association=f"{run.directory.url}{facts.rows.described}",
        counterfactual=None,
        rows=len(facts),
        counterfactual_rows=0,
        discovery_rows=0,
        confirmation_rows=0,
        clusters=int(facts.cluster.max(initial=-1)) + 1,
        attributes=(),
        image_properties=(),
        evidence=Verdict.INCONCLUSIVE,
        left_out=left_out[0],
        test_left_out=left_out[1],
    )
