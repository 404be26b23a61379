"""Answerers that are linear in stored embeddings: zero-shot CLIP, and probes trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipaudit.arrays import Float32s, Float64s, Floats
from clipaudit.cues.reliance.head_parts import HeadParts
from clipaudit.schema import parse_head_label


@dataclass(frozen=True, eq=False, kw_only=True)
class TableAnswerer:
    """Logits = embedding @ matrix' + bias, with what each head adds to them."""

    name: str
    logits: Float32s
    """(n, C)"""
    parts: HeadParts


def table_answerer(
    name: str,
    embedding: Floats,
    matrix: Floats,
    heads: Sequence[str],
    coordinates: Sequence[Floats],
    frames: Sequence[Floats],
    bias: Floats | None = None,
) -> TableAnswerer:
    """An answerer with class scores `matrix` (C, D) of embeddings (n, D), plus `bias` (C,).

    heads: P labels; coordinates: P of (n, dh) as stored; frames: P of (dh, D), orthonormal rows Q (docs/method.md 1). A
    probe on standardised embeddings folds the standardisation into matrix and bias. ValueError when the three differ in
    length.
    """
    if not len(heads) == len(coordinates) == len(frames):
        raise ValueError(f"{len(heads)} heads, {len(coordinates)} coordinates and {len(frames)} frames")
    weights = np.asarray(matrix, np.float32)
    logits = embedding.astype(np.float32) @ weights.T
    if bias is not None:
        logits = logits + np.asarray(bias, np.float32)
    # Q w: what one unit of each coordinate adds to each logit (docs/method.md 5)
    toward: list[Float64s] = [frame.astype(np.float64) @ weights.T.astype(np.float64) for frame in frames]
    added = np.empty((len(heads), len(embedding), len(weights)), np.float32)
    for place, values in enumerate(coordinates):
        added[place] = values.astype(np.float32) @ toward[place].astype(np.float32)
    parts = HeadParts(
        names=tuple(heads),
        layers=np.array([parse_head_label(head)[0] for head in heads], np.int64),
        logits=added,
        coordinates=coordinates,
        toward=toward,
        frames=[np.asarray(frame, np.float64) for frame in frames],
    )
    return TableAnswerer(name=name, logits=logits, parts=parts)


def clip_answerer(
    embedding: Floats, classes: Floats, heads: Sequence[str], coordinates: Sequence[Floats], frames: Sequence[Floats]
) -> TableAnswerer:
    """Zero-shot CLIP: the matrix is the class vectors (C, D)."""
    return table_answerer("clip", embedding, classes, heads, coordinates, frames)
