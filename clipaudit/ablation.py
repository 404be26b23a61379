"""Mean-ablation and TextSpan reconstruction of stored heads, layers and MLPs, streamed over a run's rows.

Source: Gandelsman, Efros, Steinhardt, "Interpreting CLIP's Image Representation via Text-Based Decomposition", ICLR
2024: a component's direct effect is measured by replacing it with its mean over images. The model computes nothing
again; an ablated embedding `z - sum (y - mean y) Q` (DESIGN 3) is not normalised again, which changes no answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.errors import UsageError
from clipaudit.heads import TextSpan
from clipaudit.projections import vectors_of
from clipaudit.run import Run
from clipaudit.schema import OK, Label, attention_column, head_label, mlp_column, parse_head_label
from clipaudit.zeroshot import LogitBatch

Bools: TypeAlias = npt.NDArray[np.bool_]
Float32s: TypeAlias = npt.NDArray[np.float32]
Float64s: TypeAlias = npt.NDArray[np.float64]
Floats: TypeAlias = npt.NDArray[np.floating[Any]]

_ROWS = 4096
_BATCH_BYTES = 64 * 2**20


# -- rows --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Which rows of a run: all ok ones, or some."""

    shards: tuple[int, ...] | None = None
    """Shard ids; None for all."""
    where: Mapping[str, Label] = field(default_factory=dict)
    """Column -> value that a row must have: `label`, or `attributes.split`."""


ALL = Rows()


@dataclass(frozen=True, eq=False, kw_only=True)
class RowBatch:
    """Some ok rows of a run."""

    vectors: dict[str, Float32s]
    """(n, length) by column."""
    columns: dict[str, npt.NDArray[Any]]
    """(n,) objects by column."""

    def __len__(self) -> int:
        return len(next(iter({**self.vectors, **self.columns}.values()), ()))


def stream_rows(
    run: Run, vectors: Sequence[str], columns: Sequence[str] = (), rows: Rows = ALL, size: int = _ROWS
) -> Iterator[RowBatch]:
    """Vector columns (float32) and others (`label`, `attributes.place`) of ok rows, at most `size` at a time.

    UsageError when the run has no such column.
    """
    wanted = list(dict.fromkeys([*columns, *rows.where]))
    for name in wanted:
        outer, _, inner = name.partition(".")
        if inner and (outer != "attributes" or inner not in run.spec.attributes):
            known = ", ".join(run.spec.attributes) or "none"
            raise UsageError(f"the run at {run.directory.url} has no attribute {inner!r}: it has {known}")
    stored = list(dict.fromkeys(["status", *(name.partition(".")[0] for name in wanted), *vectors]))
    for batch in run.batches(stored, size, rows.shards):
        kept = np.asarray(pc.equal(batch.column("status"), OK).to_numpy(zero_copy_only=False), np.bool_)
        for name, value in rows.where.items():
            kept &= np.array([found == value for found in _values(batch, name)], np.bool_)
        if kept.any():
            yield RowBatch(
                vectors={name: vectors_of(batch.column(name))[0][kept].astype(np.float32) for name in vectors},
                columns={name: _values(batch, name)[kept] for name in columns},
            )


def _values(batch: pa.RecordBatch, name: str) -> npt.NDArray[Any]:
    outer, _, inner = name.partition(".")
    column = batch.column(outer)
    values = (pc.struct_field(column, inner) if inner else column).to_pylist()
    found = np.empty(len(values), object)
    found[:] = values
    return found


# -- replacement means -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Means:
    """What ablated columns are replaced by, and where it comes from."""

    values: dict[str, Float64s]
    """(length,) by column."""
    source: str
    """In words, for reports: the run, the rows, and whether classes count equally."""
    model: str
    """Fingerprint of the model that the rows were computed with."""


def replacement_means(run: Run, columns: Sequence[str], rows: Rows = ALL, *, balanced: bool = False) -> Means:
    """The means of columns over a run's rows; `balanced`: the mean of the means of each label.

    Over whole shards they come from the stored moments; with `where` or `balanced`, from one pass over the rows.
    UsageError when a column is not stored or there are no rows.
    """
    check_stored(run, columns)
    if balanced and run.spec.label_kind is None:
        raise UsageError(f"the run at {run.directory.url} has no labels: its classes cannot be balanced")
    if balanced or rows.where:
        values = _streamed_means(run, columns, rows, balanced)
    else:
        only_heads = all(name in run.spec.heads for name in columns)
        moments = run.moments(heads=list(columns) if only_heads else None, shards=rows.shards)
        values = {name: moments.mean(name).copy() for name in columns} if moments.count else None
    if values is None:
        raise UsageError(f"the run at {run.directory.url} has no rows to take means of{_described(rows)}")
    return Means(
        values=values,
        source=f"{run.directory.url}{_described(rows)}{', every label with equal weight' if balanced else ''}",
        model=run.manifest.model["fingerprint"],
    )


def _streamed_means(run: Run, columns: Sequence[str], rows: Rows, balanced: bool) -> dict[str, Float64s] | None:
    sums: dict[Label, dict[str, Float64s]] = {}
    counts: Counter[Label] = Counter()
    for batch in stream_rows(run, columns, ["label"] if balanced else [], rows):
        labels = batch.columns["label"] if balanced else np.full(len(batch), None, object)
        for label in set(labels.tolist()):
            mask = labels == label if balanced else np.ones(len(batch), np.bool_)
            counts[label] += int(mask.sum())
            total = sums.setdefault(label, {name: np.zeros(values.shape[1]) for name, values in batch.vectors.items()})
            for name, values in batch.vectors.items():
                total[name] += values[mask].sum(axis=0, dtype=np.float64)
    if not counts:
        return None
    return {name: np.mean([sums[label][name] / counts[label] for label in sums], axis=0) for name in columns}


def _described(rows: Rows) -> str:
    parts = [] if rows.shards is None else [f"{len(rows.shards)} shards"]
    parts += [f"{name} = {value}" for name, value in rows.where.items()]
    return f", {', '.join(parts)}" if parts else ""


# -- replacements ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Replacement:
    """One column replaced: the embedding loses `(values - mean) @ matrix`."""

    column: str
    mean: Float64s
    """(length,)"""
    matrix: Floats | None
    """(length, D): Q for a whole head, `(I - P) Q` for all of it but a span. None for a column in the joint space."""

    def removed(self, values: Floats) -> Floats:
        """(n, length) stored values -> (n, D) what the embeddings lose, in the values' precision."""
        away = values - self.mean.astype(values.dtype)
        found: Floats = away if self.matrix is None else away @ self.matrix.astype(values.dtype)
        return found

    def toward(self, vectors: Floats) -> Float32s:
        """Vectors (C, D) -> (length, C): what a unit of each number of the column contributes to their products."""
        folded: Float32s = (vectors.T if self.matrix is None else self.matrix @ vectors.T).astype(np.float32)
        return folded


def mean_ablation(run: Run, columns: Sequence[str], means: Means) -> tuple[Replacement, ...]:
    """Each of the columns (heads, `attention_L..`, `mlp_L..`) replaced by its mean.

    UsageError when a column is not stored, when two of them overlap, or when the means are of another model.
    """
    return _replacements(run, columns, means, {})


def span_reconstruction(
    run: Run, spans: Mapping[str, TextSpan], means: Means, texts: int | None = None
) -> tuple[Replacement, ...]:
    """Each of the heads replaced by what its first `texts` texts span, `mean + (y - mean) P`: only the rest is lost."""
    kept = {head: np.eye(span.directions.shape[1]) - span.projector(texts) for head, span in spans.items()}
    return _replacements(run, list(spans), means, kept)


def _replacements(
    run: Run, columns: Sequence[str], means: Means, kept: Mapping[str, Float64s]
) -> tuple[Replacement, ...]:
    check_stored(run, columns)
    _check_disjoint(columns)
    if means.model != run.manifest.model["fingerprint"]:
        raise UsageError(f"the means of {means.source} are of another model than the run at {run.directory.url}")
    missing = [name for name in columns if name not in means.values]
    if missing:
        raise UsageError(f"there is no mean of {missing[0]} from {means.source}")
    heads = run.spec.heads
    basis = run.basis() if any(name in heads for name in columns) else None

    def matrix(name: str) -> Floats | None:
        if basis is None or name not in heads:
            return None
        Q = basis.Q(name).astype(np.float64)
        return kept[name] @ Q if name in kept else Q

    return tuple(Replacement(column=name, mean=means.values[name], matrix=matrix(name)) for name in columns)


def ablate(embedding: Floats, vectors: Mapping[str, Floats], replacements: Sequence[Replacement]) -> Floats:
    """Embeddings (n, D) with columns (n, length) replaced, in their precision; not of unit length any more.

    Without replacements the embeddings as they are.
    """
    for replacement in replacements:
        embedding = embedding - replacement.removed(vectors[replacement.column])
    return embedding


def stream_ablated(
    run: Run, replacements: Sequence[Replacement], columns: Sequence[str] = (), rows: Rows = ALL
) -> Iterator[RowBatch]:
    """Batches of rows whose `embedding` has the columns replaced; memory does not grow with the run."""
    stored = ["embedding", *(replacement.column for replacement in replacements)]
    for batch in stream_rows(run, stored, columns, rows):
        ablated = ablate(batch.vectors["embedding"], batch.vectors, replacements)
        yield RowBatch(vectors={"embedding": ablated.astype(np.float32, copy=False)}, columns=batch.columns)


# -- zero-shot ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class ZeroShot:
    """What is asked of each row."""

    classes: Float32s
    """(C, D) unit vectors of the classes."""
    class_of: Mapping[Label, int]
    """Label -> row of `classes`; see `zeroshot.class_rows`."""
    attribute: str | None = None
    """`attributes.place`: groups are classes by its values. Any other column does too."""
    rows: Rows = ALL


def stream_logits(run: Run, question: ZeroShot, replacements: Sequence[Replacement]) -> Iterator[LogitBatch]:
    """Every row's logits with what each replacement takes away from them, once, for any number of sets of them.

    Logits are cosines; a logit scale changes no answer. A batch has as many rows as fit into 64 MB. `list()` of it may
    be kept for small runs, to ask again. UsageError when the run has no labels, or one that `class_of` does not know.
    """
    if run.spec.label_kind is None:
        raise UsageError(f"the run at {run.directory.url} has no labels: accuracy needs them (--label)")
    folded = [replacement.toward(question.classes) for replacement in replacements]
    names = [replacement.column for replacement in replacements]
    columns = ["label", *([question.attribute] if question.attribute is not None else [])]
    size = max(1, min(_ROWS, _BATCH_BYTES // (4 * len(question.classes) * (len(names) + 1))))
    for batch in stream_rows(run, ["embedding", *names], columns, question.rows, size):
        removed = np.empty((len(names), len(batch), len(question.classes)), np.float32)
        for place, replacement, toward in zip(removed, replacements, folded, strict=True):
            away = batch.vectors[replacement.column] - replacement.mean.astype(np.float32)
            np.matmul(away, toward, out=place)
        yield LogitBatch(
            base=batch.vectors["embedding"] @ question.classes.T.astype(np.float32, copy=False),
            removed=removed,
            truth=_truth(batch.columns["label"], question.class_of),
            values=_group_values(batch, question.attribute),
        )


def _truth(labels: npt.NDArray[Any], class_of: Mapping[Label, int]) -> npt.NDArray[np.int64]:
    unknown = [label for label in labels if label not in class_of]
    if unknown:
        raise UsageError(f"the run has rows of label {unknown[0]!r}, which has no class")
    return np.array([class_of[label] for label in labels], np.int64)


def _group_values(batch: RowBatch, attribute: str | None) -> npt.NDArray[Any]:
    if attribute is None:
        return np.full(len(batch), None, object)
    return np.array([None if value is None else str(value) for value in batch.columns[attribute]], object)


# -- sets of columns ---------------------------------------------------------------------------------------------------


def as_set(columns: Sequence[str], chosen: Sequence[str]) -> Bools:
    """(P,) which of the replaced columns are chosen; UsageError when one of `chosen` is not among them."""
    missing = [name for name in chosen if name not in columns]
    if missing:
        raise UsageError(f"{missing[0]} is not among the columns that are replaced: {_some(columns)}")
    return np.array([name in set(chosen) for name in columns], np.bool_)


def random_sets(columns: Sequence[str], chosen: Sequence[str], count: int = 1000, seed: int = 0) -> Bools:
    """(count, P) random sets matched to `chosen`: from each layer as many of the columns' heads as `chosen` has.

    Drawn evenly and independently; the chosen set is itself among the possible ones, as a permutation test needs.
    Columns that are not heads (MLPs) stay as they are in `chosen`.
    """
    wanted = as_set(columns, chosen)
    sets = np.tile(wanted, (count, 1))
    rng = np.random.default_rng(seed)
    layers: dict[int, list[int]] = {}
    for place, name in enumerate(columns):
        if (layer := _layer_of(name)) is not None:
            layers.setdefault(layer, []).append(place)
    for _, places in sorted(layers.items()):
        order = rng.random((count, len(places))).argsort(axis=1)
        sets[:, places] = order < int(wanted[places].sum())
    return sets


def layer_heads(run: Run, layers: Sequence[int]) -> tuple[str, ...]:
    """The stored heads of some layers; UsageError when a layer has none."""
    found = tuple(name for name in run.spec.heads if parse_head_label(name)[0] in layers)
    for layer in layers:
        check_stored(run, [head_label(layer, 0)])
    return found


def component_columns(run: Run, kind: Literal["attention", "mlp"]) -> tuple[str, ...]:
    """The stored columns of every layer's attention sum or MLP term; UsageError when the run has none."""
    found = tuple(name for name in run.spec.components if name.startswith(f"{kind}_"))
    if not found:
        check_stored(run, [mlp_column(0) if kind == "mlp" else attention_column(0)])
    return found


def check_stored(run: Run, columns: Sequence[str]) -> None:
    """UsageError unless the run stores every one of these heads and components."""
    for name in columns:
        if name in run.spec.heads or name in run.spec.components:
            continue
        if name.startswith(("attention_", "mlp_")):
            have = f"only {_some(run.spec.components)}" if run.spec.components else "no layers' sums"
            raise UsageError(f"the run at {run.directory.url} stores {have}, not {name}: audit with --components")
        raise UsageError(f"the run at {run.directory.url} stores no head {name!r}: it stores {_some(run.spec.heads)}")


def _check_disjoint(columns: Sequence[str]) -> None:
    twice = [name for name, times in Counter(columns).items() if times > 1]
    if twice:
        raise UsageError(f"{twice[0]} is to be replaced twice")
    for name in columns:
        layer = _layer_of(name)
        if layer is not None and attention_column(layer) in columns:
            raise UsageError(f"{name} is part of {attention_column(layer)}: replace one or the other")


def _layer_of(column: str) -> int | None:
    """The layer of a head's column; None for any other column."""
    try:
        return parse_head_label(column)[0]
    except ValueError:
        return None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{names[0]} to {names[-1]} ({len(names)} in all)"
