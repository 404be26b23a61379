"""Faults of the data that have nothing to do with cues: duplicates, leakage, unreadable samples, balance."""

from __future__ import annotations

from typing import Final

import numpy as np

from clipaudit.arrays import Ints
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
    coverage, examples = facts.run.coverage(), skipped_examples(facts.run.records)
    size = np.bincount(facts.cluster)
    repeated = np.flatnonzero(size > 1)
    labels = np.bincount(np.unique(np.stack([facts.cluster, facts.truth]), axis=1)[0], minlength=len(size))
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
        leaked_clusters=None if test is None else leaked(facts, test),
        examples=_examples(facts, repeated[np.argsort(-size[repeated], kind="stable")][:_CLUSTERS], names),
        balance=float(present.min() / present.max()) if len(present) else 0.0,
    )


def leaked(facts: ImageFacts, test: ImageFacts) -> int:
    """Perceptual hashes that occur in both sets of images; those of images without detail do not count."""
    hashes = set(_hashes(facts).tolist())
    return sum(1 for value in np.unique(_hashes(test)).tolist() if value in hashes)


def _hashes(facts: ImageFacts) -> Ints:
    return facts.phash[facts.phash_known]


def _examples(facts: ImageFacts, clusters: Ints, names: ClassNames) -> tuple[tuple[SampleRef, ...], ...]:
    return tuple(
        tuple(sample_ref(facts, place, names) for place in np.flatnonzero(facts.cluster == cluster)[:_IMAGES].tolist())
        for cluster in clusters.tolist()
    )
