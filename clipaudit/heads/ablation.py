"""Mean-ablation and TextSpan reconstruction of stored heads, layers and MLPs, streamed over a run's rows.

Source: Gandelsman, Efros, Steinhardt 2024 (arXiv 2310.05916): a component's direct effect is measured by
replacing it with its mean over images. The model computes nothing again; an ablated embedding `z - sum (y - mean y) Q`
(docs/method.md 5) is not normalised again, which changes no answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import ArrayHolder, Bools, Float32s, Float64s, Floats
from clipaudit.errors import UsageError
from clipaudit.heads.allocation import INITIAL, PublishedAllocation, stream_allocated
from clipaudit.heads.column_sets import layer_of, some_of
from clipaudit.heads.textspan import TextSpan
from clipaudit.heads.zeroshot import LogitBatch
from clipaudit.run.number_bins import NumberBins
from clipaudit.run.reader import Run
from clipaudit.run.rows import ALL, BATCH_ROWS, RowBatch, Rows
from clipaudit.schema import (
    Label,
    attention_column,
    head_label,
    labels_in,
    mlp_column,
    parse_head_label,
    self_attention_column,
)

ComponentKind: TypeAlias = Literal["attention", "mlp", "self_attention"]

_BATCH_BYTES = 64 * 2**20


# -- replacement means -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Means(ArrayHolder):
    """What ablated columns are replaced by, and where it comes from."""

    values: dict[str, Float64s]
    """(length,) by column."""
    source: str
    """In words, for reports: the run, the rows, and whether classes count equally."""
    model: str
    """Fingerprint of the model that the rows were computed with."""


def replacement_means(
    run: Run,
    columns: Sequence[str],
    rows: Rows = ALL,
    *,
    balanced: bool = False,
    published: PublishedAllocation | None = None,
) -> Means:
    """The means of columns over a run's rows, (length,) float64 each; `balanced`: the mean of the labels' means.

    Over whole shards they come from the stored moments; with `where`, `balanced` or in the published allocation, from
    one pass over the rows.
    UsageError when a column is not stored, there are no rows, or `balanced` is asked of a run without labels.
    """
    check_stored(run, [name for name in columns if published is None or name != INITIAL])
    if balanced and run.spec.label_kind is None:
        raise UsageError(f"the run at {run.directory.url} has no labels: its classes cannot be balanced")
    if balanced or rows.where or published is not None:
        values = _streamed_means(run, columns, rows, balanced, published)
    else:
        only_heads = all(name in run.spec.heads for name in columns)
        moments = run.moments(heads=list(columns) if only_heads else None, shards=rows.shards)
        values = {name: moments.mean(name).copy() for name in columns} if moments.count else None
    if values is None:
        raise UsageError(f"the run at {run.directory.url} has no rows to take means of{rows.described}")
    return Means(
        values=values,
        source=f"{run.directory.url}{rows.described}{', every label with equal weight' if balanced else ''}",
        model=run.manifest.model["fingerprint"],
    )


def _streamed_means(
    run: Run, columns: Sequence[str], rows: Rows, balanced: bool, published: PublishedAllocation | None
) -> dict[str, Float64s] | None:
    sums: dict[Label, dict[str, Float64s]] = {}
    counts: Counter[Label] = Counter()
    for batch in stream_allocated(run, columns, ["label"] if balanced else [], rows, published=published):
        # without `balanced` all rows are of one group, None
        labels = batch.columns["label"].tolist() if balanced else [None] * len(batch)
        # an image with several labels counts for each, one with an empty list for none
        groups = [labels_in(label) if isinstance(label, tuple) else (label,) for label in labels]
        for label in dict.fromkeys(label for group in groups for label in group):
            mask = np.array([label in group for group in groups], np.bool_)
            counts[label] += int(mask.sum())
            total = sums.setdefault(label, {name: np.zeros(values.shape[1]) for name, values in batch.vectors.items()})
            for name, values in batch.vectors.items():
                total[name] += values[mask].sum(axis=0, dtype=np.float64)
    if not counts:
        return None
    # mean of the labels' means, which of the single group is the plain mean
    return {name: np.mean([sums[label][name] / counts[label] for label in sums], axis=0) for name in columns}


# -- replacements ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Replacement(ArrayHolder):
    """One column replaced: the embedding loses `(values - mean) @ matrix`."""

    column: str
    mean: Float64s
    """(length,)"""
    matrix: Floats | None
    """(length, D): Q for a whole head, `(I - P) Q` for all of it but a span. None for a column in the joint space."""

    def toward(self, vectors: Floats) -> Float32s:
        """Vectors (C, D) -> (length, C) float32: what a unit of each number of the column adds to their products."""
        folded: Float32s = (vectors.T if self.matrix is None else self.matrix @ vectors.T).astype(np.float32)
        return folded


def mean_ablation(
    run: Run, columns: Sequence[str], means: Means, published: PublishedAllocation | None = None
) -> tuple[Replacement, ...]:
    """Each of the columns (heads, `attention_L..`, `mlp_L..`, `self_attention_L..`) replaced by its mean.

    UsageError when a column is not stored, when two of them overlap, or when the means are of another model.
    """
    return _replacements(run, columns, means, {}, published)


def span_reconstruction(
    run: Run,
    spans: Mapping[str, TextSpan],
    means: Means,
    texts: int | None = None,
    published: PublishedAllocation | None = None,
) -> tuple[Replacement, ...]:
    """Each of the heads replaced by what its first `texts` texts span, `mean + (y - mean) P`: only the rest is lost.

    UsageError as in `mean_ablation`. Source: arXiv 2310.05916, section 4.2.
    """
    # y - (mean + (y - mean) P) = (y - mean)(I - P): what is lost
    rest = {head: np.eye(span.directions.shape[1]) - span.projector(texts) for head, span in spans.items()}
    return _replacements(run, list(spans), means, rest, published)


def direction_ablation(
    run: Run, heads: Sequence[str], direction: Floats, means: Means, published: PublishedAllocation | None = None
) -> tuple[Replacement, ...]:
    """Each of the heads without what it holds along a direction (D,): `y - ((y - mean) . u) u`, u = Q t / |Q t|.

    A head that the direction does not reach stays as it is. UsageError as in `mean_ablation`.
    """
    basis = run.basis() if published is None else published.basis
    check_stored(run, heads)
    lost = {}
    for head in heads:
        folded = basis.Q(head).astype(np.float64) @ np.asarray(direction, np.float64)
        u = folded / max(float(np.linalg.norm(folded)), 1e-300)
        lost[head] = np.outer(u, u)
    return _replacements(run, list(heads), means, lost, published)


def _replacements(
    run: Run,
    columns: Sequence[str],
    means: Means,
    rest: Mapping[str, Float64s],
    published: PublishedAllocation | None,
) -> tuple[Replacement, ...]:
    """`rest`: head -> (dh, dh) projector on what is lost; a head without one is replaced as a whole."""
    check_stored(run, [name for name in columns if published is None or name != INITIAL])
    _check_disjoint(columns)
    if means.model != run.manifest.model["fingerprint"]:
        raise UsageError(f"the means of {means.source} are of another model than the run at {run.directory.url}")
    missing = [name for name in columns if name not in means.values]
    if missing:
        raise UsageError(f"there is no mean of {missing[0]} from {means.source}")
    heads = run.spec.heads
    basis = None
    if any(name in heads for name in columns):
        basis = run.basis() if published is None else published.basis

    def matrix(name: str) -> Floats | None:
        if basis is None or name not in heads:
            return None
        Q = basis.Q(name).astype(np.float64)
        return rest[name] @ Q if name in rest else Q

    return tuple(Replacement(column=name, mean=means.values[name], matrix=matrix(name)) for name in columns)


# -- zero-shot ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ZeroShot(ArrayHolder):
    """The question that each row answers: which class is this image?"""

    classes: Float32s
    """(C, D) unit vectors of the classes."""
    class_of: Mapping[Label, int]
    """Label -> row of `classes`; see `run.classes.ClassNames.rows`."""
    attribute: str | None = None
    """`attributes.place`: groups are classes by its values. Any other column does too."""
    bins: NumberBins | None = None
    """Of an attribute with fractions: its groups are ranges."""
    rows: Rows = ALL
    published: PublishedAllocation | None = None
    """The columns are replaced in this allocation; None for our own."""


def stream_logits(run: Run, question: ZeroShot, replacements: Sequence[Replacement]) -> Iterator[LogitBatch]:
    """Every row's logits with what each replacement takes away from them, once, for any number of sets of them.

    Logits are cosines; a logit scale changes no answer. A batch has as many rows as fit into 64 MB; for small runs,
    keep `list()` of it to ask again. UsageError when the run has no labels, or one that `class_of` does not know.
    """
    return stream_variants(run, question, [(replacement,) for replacement in replacements])


def stream_variants(run: Run, question: ZeroShot, variants: Sequence[Sequence[Replacement]]) -> Iterator[LogitBatch]:
    """The same for variants of several replacements each, which may replace one column in different ways.

    `removed[v]` of a batch is what variant v takes away as a whole.
    """
    if run.spec.label_kind is None:
        raise UsageError(f"the run at {run.directory.url} has no labels: accuracy needs them (--label)")
    folded = {column: _Folded(column, variants, question.classes) for column in _replaced(variants)}
    columns = ["label", *([question.attribute] if question.attribute is not None else [])]
    classes, several = len(question.classes), run.spec.multi_label
    # float32 logits of the rows, of what each variant removes, and of one product on the way
    size = max(1, min(BATCH_ROWS, _BATCH_BYTES // (4 * classes * (2 * len(variants) + 1))))
    for batch in stream_allocated(run, ["embedding", *folded], columns, question.rows, size, question.published):
        # linear in the embedding: what each variant takes from the logits adds up over its columns
        removed = np.zeros((len(variants), len(batch), classes), np.float32)
        for column, fold in folded.items():
            fold.take_away(batch.vectors[column], removed)
        yield LogitBatch(
            base=batch.vectors["embedding"] @ question.classes.T.astype(np.float32, copy=False),
            removed=removed,
            truth=_truth(batch.columns["label"], question.class_of, several),
            values=_group_values(batch, question.attribute, question.bins),
            present=_present(batch.columns["label"], question.class_of, classes) if several else None,
        )


def _replaced(variants: Sequence[Sequence[Replacement]]) -> list[str]:
    return list(dict.fromkeys(replacement.column for variant in variants for replacement in variant))


class _Folded:
    """What a column's replacements take away from the logits, those of all variants in one product."""

    def __init__(self, column: str, variants: Sequence[Sequence[Replacement]], classes: Float32s) -> None:
        users = [(v, r) for v, variant in enumerate(variants) for r in variant if r.column == column]
        self._variants = [v for v, _ in users]
        # M t of every class t for each variant that uses the column, side by side: (length, users * C)
        self._toward = np.concatenate([r.toward(classes) for _, r in users], axis=1)
        self._centre = np.stack([r.mean for _, r in users])
        self._one_mean = bool((self._centre == self._centre[0]).all())

    def take_away(self, values: Float32s, removed: Float32s) -> None:
        """Add to `removed`, (V, n, C), in place; values (n, length)."""
        # (y - mean)(M t): with one mean for all variants, a single product
        classes = removed.shape[2]
        if self._one_mean:
            lost = (values - self._centre[0].astype(np.float32)) @ self._toward  # (n, users * C)
            for place, variant in enumerate(self._variants):
                removed[variant] += lost[:, place * classes : (place + 1) * classes]
            return
        for place, variant in enumerate(self._variants):
            away = values - self._centre[place].astype(np.float32)
            removed[variant] += away @ self._toward[:, place * classes : (place + 1) * classes]


def _truth(labels: npt.NDArray[Any], class_of: Mapping[Label, int], several: bool) -> npt.NDArray[np.int64]:
    if several:
        return np.full(len(labels), -1, np.int64)
    unknown = [label for label in labels if label not in class_of]
    if unknown:
        raise UsageError(f"the run has rows of label {unknown[0]!r}, which has no class")
    return np.array([class_of[label] for label in labels], np.int64)


def _present(labels: npt.NDArray[Any], class_of: Mapping[Label, int], classes: int) -> Bools:
    """(n, C) which classes each row's tuple of labels has."""
    present = np.zeros((len(labels), classes), np.bool_)
    for row, several in enumerate(labels):
        for label in labels_in(several):
            present[row, class_of[label]] = True
    return present


def _group_values(batch: RowBatch, attribute: str | None, bins: NumberBins | None) -> npt.NDArray[Any]:
    if attribute is None:
        return np.full(len(batch), None, object)
    if bins is not None:
        return bins.of(batch.columns[attribute].tolist())
    return np.array([None if value is None else str(value) for value in batch.columns[attribute]], object)


# -- sets of columns ---------------------------------------------------------------------------------------------------


def layer_heads(run: Run, layers: Sequence[int]) -> tuple[str, ...]:
    """The stored heads of some layers; UsageError when a layer has none."""
    for layer in layers:
        check_stored(run, [head_label(layer, 0)])
    return tuple(name for name in run.spec.heads if parse_head_label(name)[0] in layers)


def component_columns(run: Run, kind: ComponentKind) -> tuple[str, ...]:
    """The stored columns of every layer's attention sum, MLP term or class-token self-attention; UsageError, which says
    why, when the run has none."""
    columns = tuple(name for name in run.spec.components if name.startswith(f"{kind}_L"))
    if not columns:
        first = {"attention": attention_column, "mlp": mlp_column, "self_attention": self_attention_column}[kind](0)
        check_stored(run, [first])
    return columns


def why_no_self_attention(run: Run) -> str | None:
    """Why a run does not store class-token self-attention, in words; None when it does."""
    if any(name.startswith("self_attention_L") for name in run.spec.components):
        return None
    if run.manifest.model.get("tower", {}).get("pooling", "token") != "token":
        return "its tower pools patches, so that no class token attends to itself in what is read (docs/method.md 5)"
    if run.spec.components:
        return "it was made before class-token self-attention was stored: audit anew with --components"
    return "it stores heads only: audit again with --components, into another --out"


def check_stored(run: Run, columns: Sequence[str]) -> None:
    """UsageError unless the run stores every one of these heads and components."""
    for name in columns:
        if name in run.spec.heads or name in run.spec.components:
            continue
        url = run.directory.url
        if name.startswith("self_attention_") and (why := why_no_self_attention(run)) is not None:
            raise UsageError(f"the run at {url} stores no class-token self-attention: {why}")
        if name.startswith(("attention_", "mlp_", "self_attention_")) and not run.spec.components:
            raise UsageError(
                f"the run at {url} stores heads only, and no components such as {name}: audit again with --components,"
                " into another --out"
            )
        if name.startswith(("attention_", "mlp_", "self_attention_")):
            stored = some_of(run.spec.components)
            raise UsageError(
                f"the run at {url} stores only {stored}, not {name}: audit with --components and more --layers"
            )
        raise UsageError(f"the run at {run.directory.url} stores no head {name!r}: it stores {some_of(run.spec.heads)}")


def _check_disjoint(columns: Sequence[str]) -> None:
    twice = [name for name, times in Counter(columns).items() if times > 1]
    if twice:
        raise UsageError(f"{twice[0]} is to be replaced twice")
    for name in columns:
        prefix, separator, number = name.partition("self_attention_L")
        layer = int(number) if separator and not prefix else layer_of(name)
        if layer is None:
            continue
        if attention_column(layer) in columns:
            raise UsageError(f"{name} is part of {attention_column(layer)}: replace one or the other")
        if self_attention_column(layer) in columns and name != self_attention_column(layer):
            raise UsageError(f"{self_attention_column(layer)} holds a part of {name}: replace one or the other")
