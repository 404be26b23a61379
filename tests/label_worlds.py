"""Worlds of several labels an image: embeddings that show labels and a cue, and columns that go with one label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipaudit.cues.answerers.given import GivenAnswerer
from clipaudit.cues.answerers.label_reliance import label_reliance
from clipaudit.cues.rehearsal.cue_in_features import cue_scores
from clipaudit.cues.rehearsal.experiment import column_experiments, draws_for
from clipaudit.cues.rehearsal.folds import cross_folds, split_fold
from clipaudit.cues.rehearsal.rehearsal import presence_auc, rehearse
from clipaudit.cues.reliance.images import CueColumn, RelianceOptions, ScoredImages, cue_cells
from clipaudit.cues.reliance.ranking import presence_scores
from clipaudit.cues.reliance.training_effect import RetrainedAnswers
from clipaudit.cues.statistics.attribute import Attribute

DIMS, LABELS = 64, 4


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelWorld:
    """n images; the first half trains where there is a split."""

    embedding: np.ndarray
    """(n, DIMS)"""
    labels: np.ndarray
    """(n, LABELS) bool which image has which label; independent of each other."""
    cue: np.ndarray
    """(n,) 0 or 1, what pixels show."""
    train: np.ndarray
    """(n,) bool"""


def label_world(rng, n=2000, *, tie=0.95, share=0.25, core=1.5, shown=2.5, scored_tie=0.5):
    """The cue agrees with label 0 in a share `tie` of the training half, `scored_tie` of the other; share: of images
    that have each label; core, shown: how clearly labels and cue are seen, in standard deviations of the noise."""
    labels = rng.random((n, LABELS)) < share
    train = np.arange(n) < n // 2
    cue = tied(rng, labels[:, 0], np.where(train, tie, scored_tie))
    embedding = np.linspace(1.5, 0.5, DIMS) * rng.standard_normal((n, DIMS))
    embedding[:, 20 : 20 + LABELS] += core * labels
    embedding[:, [5, 6]] += shown * (cue[:, None] - 0.5)
    # an orthogonal turn, so that no dimension is special
    turn = np.linalg.qr(np.random.default_rng(7).standard_normal((DIMS, DIMS)))[0]
    return LabelWorld(embedding=embedding @ turn, labels=labels, cue=cue, train=train)


def tied(rng, has, share):
    """(n,) 0 or 1, as `has` (n,) in a share of the images, drawn from it alone."""
    return np.where(rng.random(len(has)) < share, has, ~has).astype(np.int64)


def measured(world, columns, *, label=0, split=True, seed=0, labels=1, cluster=None):
    """The rules' answers of the rehearsed probe of one label, for each of columns (n,) that go with it."""
    truth = np.where(world.labels[:, label], 0, 1)
    train = np.flatnonzero(world.train) if split else np.arange(len(truth))
    scored = np.flatnonzero(~world.train) if split else train
    codes = np.arange(len(truth)) if cluster is None else cluster
    folds = (
        split_fold(codes[train], codes[scored])
        if split
        else cross_folds(codes[train], truth[train], codes[scored], seed)
    )
    rehearsal = rehearse(world.embedding[train], truth[train], world.embedding[scored], folds, 2, seed, presence_auc)
    attributes = [Attribute(column=name, values=("no", "yes"), codes=values[train]) for name, values in columns.items()]
    experiments = column_experiments(
        rehearsal, truth[train], codes[train], attributes, truth[scored], draws_for(labels * len(columns)), seed,
        presence_scores,
    )  # fmt: skip
    retrained = []
    for attribute, experiment in zip(attributes, experiments, strict=True):
        seen, taught_by = cue_scores(rehearsal, attribute.codes)
        retrained.append(RetrainedAnswers(
            before=experiment.before, after=experiment.after, drawn_before=experiment.drawn_before,
            drawn=experiment.drawn, training_rows=experiment.training_rows, seen=seen, taught_by=taught_by,
        ))  # fmt: skip
    half = np.random.default_rng([seed, 5]).permutation(int(codes.max()) + 1) % 2 == 0
    images = ScoredImages(truth=truth[scored], classes=2, cluster=codes[scored], discovery=half[codes[scored]])
    cues = [cue_of(name, values[scored]) for name, values in columns.items()]
    answerer = GivenAnswerer(name="rehearsed", logits=rehearsal.logits, path="", probabilities=None)
    return label_reliance(answerer, cues, images, retrained, options=RelianceOptions(seed=seed), labels=labels)


def cue_of(name, having):
    """A cue that goes with the label."""
    return CueColumn(name=name, having=having, pointed=np.array([True, False]), tested=np.ones(2, np.bool_))


def scored_label(rng, n, *, label, cue, share=0.3, tie=0.9, copies=1, sources=0):
    """Cells and scores of n images, normal with variance 1, higher by `label` where the label is and by half of `cue`
    where the cue is; of images of a source a fifth of the variance is common."""
    has = rng.random(n) < share
    having = tied(rng, has, tie)
    source = rng.integers(0, sources, n) if sources else np.arange(n)
    own = rng.normal(size=n)
    scores = np.sqrt(0.8) * own + np.sqrt(0.2) * rng.normal(size=sources)[source] if sources else own
    scores = scores + label * has + cue * (having - 0.5)
    rows = np.repeat(np.arange(n), copies)
    images = ScoredImages(
        truth=np.where(has, 0, 1)[rows], classes=2, cluster=source[rows], discovery=np.zeros(len(rows), np.bool_),
        sources=bool(sources),
    )  # fmt: skip
    return cue_cells(images, cue_of("cue", having[rows])), scores[rows].astype(np.float32)
