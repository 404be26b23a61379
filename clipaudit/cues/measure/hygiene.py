"""Faults of the data that have nothing to do with cues: duplicates, leakage, unreadable samples, balance."""

from __future__ import annotations

from typing import Final

import numpy as np

from clipaudit.arrays import Ints
from clipaudit.cues.measure.duplicates_between import clusters_between, own_duplicates
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.cues.measure.sample_refs import sample_ref
from clipaudit.cues.result.finding_parts import SampleRef
from clipaudit.cues.result.panels import Hygiene
from clipaudit.run.classes import ClassNames
from clipaudit.run.upkeep import skipped_examples

_CLUSTERS: Final = 6
"""Clusters of near duplicates that are shown, the largest."""
_IMAGES: Final = 6
"""Images of each."""


def hygiene(facts: ImageFacts, test: ImageFacts | None, names: ClassNames) -> Hygiene:
    """Faults of the association's images `facts`; `test` are the scored images, when they are others."""
    other = facts if test is None else test
    pairs = [] if test is None else leaked(facts, test)
    coverage, examples = facts.run.coverage(), skipped_examples(facts.run.records)
    # images of one source that the user names are no copies
    cluster = own_duplicates(facts) if facts.named_sources else facts.cluster
    size = np.bincount(cluster)
    repeated = np.flatnonzero(size > 1)
    labels = np.bincount(np.unique(np.stack([cluster, facts.truth]), axis=1)[0], minlength=len(size))
    counts = np.bincount(facts.truth[facts.truth >= 0], minlength=len(names))
    present = counts[counts > 0]
    return Hygiene(
        unreadable=dict(coverage.skipped),
        unreadable_examples={status: examples[status][0] for status in coverage.skipped if status in examples},
        failed_shards=coverage.shards - coverage.committed,
        truncated_shards=coverage.truncated,
        duplicate_clusters=len(repeated),
        duplicate_images=int(size[repeated].sum()),
        mixed_label_clusters=int((labels > 1).sum()),
        leaked_clusters=None if test is None else len(pairs),
        leaked_examples=tuple(
            (sample_ref(facts, here, names), sample_ref(other, there, names)) for here, there in pairs[:_CLUSTERS]
        ),
        examples=_examples(facts, cluster, repeated[np.argsort(-size[repeated], kind="stable")][:_CLUSTERS], names),
        balance=float(present.min() / present.max()) if len(present) else 0.0,
    )


def leaked(facts: ImageFacts, test: ImageFacts) -> list[tuple[int, int]]:
    """One image of each set, by their places, for every near-duplicate cluster that has images in both.

    Clusters are those that keep training and scored images apart in a rehearsal: an image's copies are one leak,
    however many there are on either side.
    """
    own, others = clusters_between(facts, test)
    here, there = (np.unique(codes, return_index=True) for codes in (own, others))
    both, first, second = np.intersect1d(here[0], there[0], return_indices=True)
    return list(zip(here[1][first].tolist(), there[1][second].tolist(), strict=True)) if len(both) else []


def _examples(facts: ImageFacts, cluster: Ints, shown: Ints, names: ClassNames) -> tuple[tuple[SampleRef, ...], ...]:
    return tuple(
        tuple(sample_ref(facts, place, names) for place in np.flatnonzero(cluster == code)[:_IMAGES].tolist())
        for code in shown.tolist()
    )
