"""Worlds whose heads are axes: what a class, a cue and noise add to each head, and an answerer that looks at them."""

from __future__ import annotations

import numpy as np

from clipaudit.cues.answerers.from_table import TableAnswerer, table_answerer
from clipaudit.cues.reliance.images import CueColumn, ScoredImages
from clipaudit.schema import head_label

HEADS, DIM = 24, 10
CUE_HEADS, CORE_HEADS = (3, 17), (8, 9, 13)
LABELS = tuple(head_label(head // 6, head % 6) for head in range(HEADS))


def answerer_of(rng, classes, place, *, count=2, core=1.2, reliance=0.9, noise=0.8, bias=0.0, hardness=0.0):
    """classes (n,) and place (n,) 0 or 1; reliance is how much class scores look at the place."""
    n = len(classes)
    x = noise * rng.standard_normal((n, HEADS, DIM))
    W = 0.1 * np.random.default_rng(5).standard_normal((count, HEADS, DIM))
    for head in CORE_HEADS:
        x[np.arange(n), head, classes] += core * (1 - np.asarray(hardness))
        W[np.arange(count), head, np.arange(count)] += 1.0
    for head in CUE_HEADS:
        x[:, head, 0] += 2 * place - 1
        W[0, head, 0] += reliance
        W[1:, head, 0] -= reliance / (count - 1)
    frames = np.eye(HEADS * DIM).reshape(HEADS, DIM, HEADS * DIM)
    return table_answerer(
        "clip",
        x.reshape(n, -1).astype(np.float32),
        W.reshape(count, -1).astype(np.float32),
        LABELS,
        [x[:, head].astype(np.float32) for head in range(HEADS)],
        list(frames),
        np.array([bias] + [0.0] * (count - 1), np.float32),
    )


def tied(rng, classes, share):
    """(n,) 1 for a share of class 0 and for the rest of the others."""
    return np.where(rng.random(len(classes)) < share, classes == 0, classes != 0).astype(np.int64)


def column(name, having, count=2):
    """A cue that points to class 0."""
    return CueColumn(name=name, having=having, pointed=np.arange(count) == 0, tested=np.ones(count, np.bool_))


def images(rng, truth, count=2, cluster=None, sources=False):
    codes = np.arange(len(truth)) if cluster is None else cluster
    half = rng.permutation(int(codes.max()) + 1) % 2 == 0
    return ScoredImages(truth=truth, classes=count, cluster=codes, discovery=half[codes], sources=sources)


def copied(answerer: TableAnswerer, rows):
    """The answerer of some images, with repetitions."""
    return TableAnswerer(name=answerer.name, logits=answerer.logits[rows], parts=answerer.parts.take(rows))
