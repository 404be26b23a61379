"""A user's predictions from a table: keys, and a class or a score of each class for each."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal, TypeAlias

import numpy as np

from clipaudit.arrays import Float64s, Ints
from clipaudit.errors import UsageError
from clipaudit.run.classes import ClassNames
from clipaudit.schema import Shard
from clipaudit.shards.sources.tables import ImageTable, is_table, open_table

Scale: TypeAlias = Literal["probability", "percent", "logit"]
SCORE: Final = "score:"
"""Columns of scores are `score:CLASS`."""
_ROUNDING: Final = 0.02
"""How far from 1 the probabilities of an image may sum up."""
ANY_SHARD: Final = -1


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions:
    """n rows of a table."""

    name: str
    """The model's, by the user."""
    path: str
    keys: tuple[str, ...]
    shards: Ints
    """(n,) shard ids; `ANY_SHARD` throughout in a table of keys alone."""
    answers: Ints
    """(n,) class, 0..C-1."""
    probabilities: Float64s | None
    """(n, C), each row sums to 1; None for a table of labels."""


def parse_predictions(text: str) -> tuple[str, str]:
    """Name and file of `NAME=FILE`; UsageError for anything else."""
    name, sign, path = text.partition("=")
    if not sign or not name.strip() or not path.strip():
        raise UsageError(f"--predictions {text!r} is not understood: say NAME=FILE, such as resnet=predictions.csv")
    return name.strip(), path.strip()


def read_predictions(text: str, names: ClassNames, shards: Sequence[Shard], scale: Scale | None) -> Predictions:
    """The table of `NAME=FILE`: CSV, TSV, JSONL or Parquet with `key` or `shard` and `key`, and either `label` (a
    class's name or label) or `score:CLASS` for each of the C classes.

    scale: what scores are; None for probabilities, which must then sum to 1 in each row. UsageError for a table that
    cannot be read, lacks a column, names an unknown class, or holds scores on another scale.
    """
    name, path = parse_predictions(text)
    if not is_table(path):
        raise UsageError(f"--predictions {text}: {path} is no CSV, TSV, JSONL or Parquet file by its name")
    table = open_table(path, "utf-8-sig")
    reader = _Reader(name, table, names, shards)
    scored = [column for column in table.columns if column.startswith(SCORE)]
    if "key" not in table.columns:
        raise UsageError(f"{path} has no column 'key': it has {', '.join(table.columns)}")
    if scored:
        return reader.scores(scored, scale)
    if "label" not in table.columns:
        raise UsageError(
            f"{path} has neither a column 'label' nor 'score:CLASS' for each class: it has {', '.join(table.columns)}"
        )
    return reader.labels()


class _Reader:
    def __init__(self, name: str, table: ImageTable, names: ClassNames, shards: Sequence[Shard]) -> None:
        self._name, self._table, self._names = name, table, names
        self._by_shard = "shard" in table.columns
        self._shard_ids = _shard_names(shards)
        self._class_of: dict[str, int] = {word: k for k, word in enumerate(names.names)}
        # labels before names: a column of numbers holds labels
        self._class_of |= {str(label): k for k, label in enumerate(names.labels)}
        self._keys: list[str] = []
        self._shards: list[int] = []

    def labels(self) -> Predictions:
        """A class for each row."""
        answers = [self._class(row.get("label"), f"row {number}") for number, row in self._rows()]
        return self._made(np.array(answers, np.int64), None)

    def scores(self, columns: Sequence[str], scale: Scale | None) -> Predictions:
        """A score of each class for each row, as probabilities."""
        order = [self._class(column.removeprefix(SCORE), f"column {column!r}") for column in columns]
        missing = [name for k, name in enumerate(self._names.names) if k not in order]
        if missing:
            raise UsageError(
                f"{self._table.path} has no scores of {', '.join(missing[:3])}"
                f"{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}: every class needs a column score:CLASS"
            )
        if len(set(order)) < len(order):
            raise UsageError(f"{self._table.path} has two columns of scores of one class")
        values = np.array(
            [[_number(row.get(column)) for column in columns] for _, row in self._rows()], np.float64
        ).reshape(-1, len(columns))
        raw = np.empty_like(values)
        raw[:, order] = values
        probabilities = self._probabilities(raw, scale)
        return self._made(probabilities.argmax(axis=1).astype(np.int64), probabilities)

    def _rows(self) -> list[tuple[int, dict[str, object]]]:
        """Numbered rows; their keys and shards are noted."""
        rows = []
        for number, row in enumerate(self._table.rows(), 1):
            if isinstance(row, str):
                raise UsageError(f"{self._table.path}, {row}")
            key = _text(row.get("key"))
            if not key:
                raise UsageError(f"{self._table.path}: row {number} has no key")
            shard = ANY_SHARD
            if self._by_shard:
                word = _text(row.get("shard"))
                if word not in self._shard_ids:
                    raise UsageError(f"{self._table.path}: row {number} is of shard {word!r}, which the run lacks")
                shard = self._shard_ids[word]
            self._keys.append(key)
            self._shards.append(shard)
            rows.append((number, row))
        if not rows:
            raise UsageError(f"{self._table.path} has no rows")
        return rows

    def _class(self, value: object, where: str) -> int:
        word = _text(value)
        if word in self._class_of:
            return self._class_of[word]
        nearest = difflib.get_close_matches(word, self._class_of, n=1)
        instead = f"; did you mean {nearest[0]!r}?" if nearest else f": there are {', '.join(self._names.names[:5])}"
        raise UsageError(f"{self._table.path}: {where} names the class {word!r}, which the run lacks{instead}")

    def _probabilities(self, raw: Float64s, scale: Scale | None) -> Float64s:
        bad = np.flatnonzero(~np.isfinite(raw).all(axis=1))
        if len(bad):
            raise UsageError(f"{self._table.path}: row {int(bad[0]) + 1} has a score that is no number")
        if scale == "logit":
            powers = np.exp(raw - raw.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))
        values = raw / 100 if scale == "percent" else raw
        sums = values.sum(axis=1)
        wrong = np.flatnonzero((np.abs(sums - 1) > _ROUNDING) | (values < -1e-9).any(axis=1))
        if len(wrong):
            row, unit = int(wrong[0]), 100 if scale == "percent" else 1
            raise UsageError(
                f"{self._table.path}: the scores of row {row + 1} sum to {raw[row].sum():.4g}, and not to {unit}: say"
                " --scores probability, percent or logit, as they are"
            )
        clipped = np.maximum(values, 0.0)
        return np.asarray(clipped / clipped.sum(axis=1, keepdims=True))

    def _made(self, answers: Ints, probabilities: Float64s | None) -> Predictions:
        return Predictions(
            name=self._name,
            path=self._table.path,
            keys=tuple(self._keys),
            shards=np.array(self._shards, np.int64),
            answers=answers,
            probabilities=probabilities,
        )


def _number(value: object) -> float:
    """nan where a cell is no number."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def _text(value: object) -> str:
    """A key, shard or label as text; whole numbers that a table program made fractions, too."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value).strip()


def _shard_names(shards: Sequence[Shard]) -> dict[str, int]:
    """Ways to name a shard: its URL, its file name with or without the extension, its id."""
    names: dict[str, int] = {}
    for shard in shards:
        file = PurePosixPath(shard.url.partition("?")[0]).name
        names |= {file: shard.id, Path(file).stem: shard.id}
    return names | {shard.url: shard.id for shard in shards} | {str(shard.id): shard.id for shard in shards}
