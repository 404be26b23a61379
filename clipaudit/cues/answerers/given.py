"""The user's own model, known by its predictions alone: it is watched, and cannot be taken apart (S9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipaudit.arrays import Float32s, Float64s, Ints
from clipaudit.cues.answerers.predictions import ANY_SHARD, Predictions
from clipaudit.cues.measure.image_facts import ImageFacts
from clipaudit.errors import UsageError

_EXAMPLES = 3
_LEAST_PROBABILITY = 1e-9


@dataclass(frozen=True, eq=False, kw_only=True)
class GivenAnswerer:
    """Scores without heads, of a model that is known by its predictions."""

    name: str
    """`given:NAME`."""
    logits: Float32s
    """(m, C) log-probabilities, or one-hot rows where only answers are known."""
    parts: None = None
    path: str
    probabilities: Float64s | None
    """(m, C); None where only answers are known."""

    @property
    def model(self) -> str:
        """The user's name of it."""
        return self.name.partition(":")[2]


def answers_alone(answers: Ints, classes: int, name: str = "given", path: str = "") -> GivenAnswerer:
    """From answers alone (m,), 0..classes-1; -1 for none, which leaves an image out."""
    # without an answer all scores tie, and an image whose scores all tie is left out (S9)
    logits = np.zeros((len(answers), classes), np.float32)
    rows = np.flatnonzero(answers >= 0)
    logits[rows, answers[rows]] = 1.0
    return GivenAnswerer(name=name, logits=logits, path=path, probabilities=None)


def given_answerer(predictions: Predictions, scored: ImageFacts, classes: int) -> GivenAnswerer:
    """The predictions of the m scored images, in their order; those of other images do not count.

    classes: C. UsageError where keys repeat, where several images have one key and the table has no shards, and where
    scored images have no prediction: an image without an answer would count as answered wrong.
    """
    row_of = _rows_by_image(predictions)
    keys: list[str] = scored.key.to_pylist()
    by_shard = bool((predictions.shards != ANY_SHARD).any())
    if not by_shard and len(set(keys)) < len(keys):
        raise UsageError(
            f"{predictions.path}: several images of {scored.run.directory.url} have the same key; give a column 'shard'"
        )
    shards = scored.shard_id.tolist() if by_shard else [ANY_SHARD] * len(keys)
    rows = np.array([row_of.get(pair, -1) for pair in zip(shards, keys, strict=True)], np.int64)
    missing = np.flatnonzero(rows < 0)
    if len(missing):
        raise UsageError(_without(predictions, keys, missing))
    if predictions.probabilities is None:
        return answers_alone(predictions.answers[rows], classes, f"given:{predictions.name}", predictions.path)
    probabilities = predictions.probabilities[rows]
    return GivenAnswerer(
        name=f"given:{predictions.name}",
        logits=np.log(np.maximum(probabilities, _LEAST_PROBABILITY)).astype(np.float32),
        path=predictions.path,
        probabilities=probabilities,
    )


def _rows_by_image(predictions: Predictions) -> dict[tuple[int, str], int]:
    rows: dict[tuple[int, str], int] = {}
    for row, pair in enumerate(zip(predictions.shards.tolist(), predictions.keys, strict=True)):
        if pair in rows:
            raise UsageError(f"{predictions.path}: rows {rows[pair] + 1} and {row + 1} have the same key {pair[1]!r}")
        rows[pair] = row
    return rows


def _without(predictions: Predictions, keys: Sequence[str], missing: Ints) -> str:
    """Why scored images without a prediction are an error."""
    absent = ", ".join(keys[place] for place in missing[:_EXAMPLES].tolist())
    if len(missing) == len(keys):
        there = ", ".join(predictions.keys[:_EXAMPLES])
        return (
            f"{predictions.path}: none of its {len(predictions.keys):,} keys ({there}) is one of the {len(keys):,}"
            f" scored images ({absent})"
        )
    return (
        f"{predictions.path}: {len(missing):,} of the {len(keys):,} scored images have no prediction, such as {absent}:"
        " give all, or choose the rows that have one"
    )
