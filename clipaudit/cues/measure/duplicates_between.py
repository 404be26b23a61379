"""Near duplicates of two sets of images, such as those that train and those that are scored (S2b)."""

from __future__ import annotations

import numpy as np

from clipaudit.arrays import Bools, Ints
from clipaudit.cues.measure.image_facts import ImageFacts, duplicate_clusters
from clipaudit.cues.measure.near_duplicates import near_duplicates
from clipaudit.cues.statistics.common_clusters import common_clusters


def clusters_between(training: ImageFacts, scored: ImageFacts) -> tuple[Ints, Ints]:
    """(n,) and (m,) near-duplicate clusters, numbered alike, of two sets of images.

    Images are of one cluster that are the same, have equal perceptual hashes, or are near duplicates of one run: by its
    table, or as an audit of both sets would find them (S2b). A column of sources (`--cluster`) does not count here:
    whoever splits the images decides what is on which side.
    """
    codings = [[(facts.phash, facts.phash_known)] for facts in (training, scored)]
    if training.run.directory.url == scored.run.directory.url:
        of_run = zip((training, scored), _clusters_of_run(training, scored), strict=True)
        for own_codings, (facts, codes) in zip(codings, of_run, strict=True):
            own_codings += [(facts.position, np.ones(len(facts), np.bool_)), codes]
    own, other = common_clusters(codings)
    return own, other


def own_duplicates(facts: ImageFacts) -> Ints:
    """(n,) near-duplicate cluster of each image, 0..G-1, where `facts.cluster` is a column of sources (`--cluster`)."""
    codes, known = _clusters_of_run(facts, facts)[0]
    alone = codes.max(initial=-1) + 1 + np.arange(len(codes))
    return np.unique(np.where(known, codes, alone), return_inverse=True)[1].astype(np.int64)


def _clusters_of_run(training: ImageFacts, scored: ImageFacts) -> list[tuple[Ints, Bools]]:
    """Of each set: (n,) codes of clusters in their run, and (n,) whether each is known."""
    result = []
    for facts in (training, scored):
        clusters = duplicate_clusters(facts.run, facts.shard_id, facts.index)
        if clusters is None:
            return _found_clusters(training, scored)
        result.append((clusters, clusters >= 0))
    return result


def _found_clusters(training: ImageFacts, scored: ImageFacts) -> list[tuple[Ints, Bools]]:
    """The same of a run without a table of near duplicates: those among all images of both sets."""
    parts = (training, scored)
    position, first = np.unique(np.concatenate([facts.position for facts in parts]), return_index=True)
    truth = np.concatenate([facts.truth for facts in parts])[first]
    phash = np.concatenate([facts.phash for facts in parts])[first]
    known = np.concatenate([facts.phash_known for facts in parts])[first]
    clusters = near_duplicates(training.run, position, truth, phash, known)
    return [(clusters[np.searchsorted(position, facts.position)], np.ones(len(facts), np.bool_)) for facts in parts]
