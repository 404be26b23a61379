"""Stored columns in the allocation of the published code, which spreads means and biases over heads and tokens.

Here every component subtracts its own mean, and biases are components of their own. The code published with Gandelsman,
Efros, Steinhardt (ICLR 2024) subtracts the mean of the whole residual stream instead, an equal share from each of the
2 L + 1 components and inside an attention layer from each head and token, and spreads the output bias over heads and
tokens and the last LayerNorm's bias over everything. With C = 2 L + 1, g = 1' diag(gamma) P and N tokens
(docs/method.md 1),

    published = own + s mean(component) g + shares of (s b G + s mean(b) g) - s mean(stream) g / C + beta P / (|r| C)

where a head has 1 / H of a layer's shares and class-token self-attention 1 / N. The means are in the column
`residual_means` of runs with `--components`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from clipaudit.arrays import ArrayHolder, Float64s, Floats
from clipaudit.errors import UsageError
from clipaudit.run.basis import Basis
from clipaudit.run.moments import Moments, merge, moments_of
from clipaudit.run.reader import Run
from clipaudit.run.rows import ALL, BATCH_ROWS, RowBatch, Rows, stream_rows
from clipaudit.schema import RESIDUAL_MEANS, parse_head_label

Allocation: TypeAlias = Literal["own", "published"]

INITIAL: Final = "initial"
"""Name of the class token's embedding as a component, which varies between images in the published allocation alone."""
PUBLISHED_RANK: Final = 80
"""The published scripts project texts on so many right singular vectors of a head's outputs."""
_SHARED: Final = ("scale", "norm")
_RANK_TOLERANCE: Final = 1e-6
"""Directions in which a head's outputs have less than this share of their largest singular value hold no data."""
_ARRAYS: Final = ("flat", "attention_bias_mean", "initial_mean", "attention_bias", "norm_bias", "initial")


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Shared(ArrayHolder):
    """What all columns of some rows share."""

    residual_means: Floats
    """(n, layers * (heads + 2) + 1), see `TableSpec.residual_means`."""
    scale: Floats
    """(n,) s."""
    norm: Floats
    """(n,) |r|."""


class PublishedAllocation:
    """Columns of a run in the published allocation.

    A head's coordinates become head_dim + 4 numbers in an orthonormal basis of its own: its published outputs span
    three dimensions more than its coordinates. Components stay vectors of the joint space.

    Args:
        basis: of the stored heads, with the arrays that `ResidualMeans.arrays` adds.
        layers: L of the tower.
        tokens: N of the tower, the class token included.

    Raises UsageError when the basis lacks those arrays.
    """

    def __init__(self, basis: Basis, layers: int, tokens: int) -> None:
        missing = [name for name in _ARRAYS if name not in basis.tensors]
        if missing:
            raise UsageError(f"the published allocation needs {missing[0]}, which the run's basis lacks")
        self._arrays = {name: basis.tensors[name].astype(np.float64) for name in _ARRAYS}
        places = [parse_head_label(head) for head in basis.heads]
        self._layers = sorted({layer for layer, _ in places})
        self._heads = max(head for _, head in places) + 1
        self._components, self._tokens = 2 * layers + 1, tokens
        mixes, bases = {}, []
        for head in basis.heads:
            whole = np.concatenate([basis.Q(head).astype(np.float64), self._extras(head)])  # (dh + 4, D)
            U, sigma, Vh = np.linalg.svd(whole, full_matrices=False)
            # two of the four extras lie along g: dh + 3 dimensions at most
            rank = int((sigma > _RANK_TOLERANCE * sigma[0]).sum())
            Q = np.zeros_like(whole)
            Q[:rank] = Vh[:rank]
            mix = np.zeros((len(whole), len(whole)))
            mix[:, :rank] = U[:, :rank] * sigma[:rank]  # own numbers and extras -> coordinates in Q
            mixes[head] = mix
            bases.append(Q)
        self._mixes = mixes
        identity = np.broadcast_to(np.eye(len(bases[0])), (len(bases), len(bases[0]), len(bases[0])))
        self.basis = Basis(heads=basis.heads, tensors={"Q": np.stack(bases), "T": identity}, metadata=basis.metadata)
        """Q (heads, dh + 4, D): orthonormal rows, and rows of zeros where a head's outputs have fewer dimensions."""

    @staticmethod
    def of(run: Run) -> PublishedAllocation:
        """Of a run; UsageError, which says why, when it stores no residual means."""
        tower = run.manifest.model.get("tower", {})
        if not run.spec.residual_means:
            where = f"the run at {run.directory.url}"
            if tower.get("pooling", "token") != "token":
                raise UsageError(
                    f"--allocation published: {where} is of a tower that pools patches, and the published code knows"
                    " class-token towers only"
                )
            if any(name.startswith("self_attention_L") for name in run.spec.components):
                raise UsageError(
                    f"--allocation published: {where} is of a tower with a LayerNorm inside its attention, which the"
                    " published code does not know"
                )
            why = "was made before residual means were stored" if run.spec.components else "stores no components"
            raise UsageError(f"--allocation published: {where} {why}: audit anew with --components")
        return PublishedAllocation(run.basis(), int(tower["layers"]), int(tower["tokens"]))

    @property
    def head_dim(self) -> int:
        """Coordinates of a head in this allocation."""
        return int(self.basis.tensors["Q"].shape[1])

    def __call__(self, column: str, values: Floats, shared: Shared) -> Float64s:
        """A column's values (n, length) in the published allocation, float64: (n, dh + 4) of a head, else (n, D).

        `initial` has no stored values: give (n, 0).
        """
        means = shared.residual_means.astype(np.float64)
        s, inverse = shared.scale.astype(np.float64), 1 / shared.norm.astype(np.float64)
        # what an image has beside a column's own numbers: s mean(component), s, s mean(stream), 1 / |r|
        extras = np.stack([self._mean_of(column, means, s), s, means[:, -1], inverse], axis=1)  # (n, 4)
        own = values.astype(np.float64)
        if column in self._mixes:
            coordinates: Float64s = np.concatenate([own, extras], axis=1) @ self._mixes[column]
            return coordinates
        added: Float64s = extras @ self._extras(column)
        return added if column == INITIAL else own + added

    def _mean_of(self, column: str, means: Float64s, s: Float64s) -> Float64s:
        """(n,) s times the mean of what a column adds to the residual stream, biases aside."""
        if column == INITIAL:
            return float(self._arrays["initial_mean"][0]) * s
        width = self._heads + 2
        kind, layer, head = _parsed(column)
        start = self._layers.index(layer) * width
        if kind == "attention":
            total: Float64s = means[:, start : start + self._heads].sum(axis=1)
            return total
        mean: Float64s = means[:, start + {"head": head, "self_attention": width - 2, "mlp": width - 1}[kind]]
        return mean

    def _extras(self, column: str) -> Float64s:
        """(4, D) where the numbers beside a column's own point."""
        flat, norm_bias = self._arrays["flat"], self._arrays["norm_bias"]
        bias, share = np.zeros_like(flat), 1.0
        if column == INITIAL:
            bias = self._arrays["initial"]
        else:
            kind, layer, _ = _parsed(column)
            share = {"head": 1 / self._heads, "self_attention": 1 / self._tokens}.get(kind, 1.0)
            row = self._layers.index(layer)
            if kind != "mlp":  # an MLP's own bias is in its values and in its mean
                bias = self._arrays["attention_bias_mean"][row] * flat
            if kind in ("head", "self_attention"):  # a layer's attention sum holds the rest of its bias already
                bias = bias + self._arrays["attention_bias"][row]
        return np.stack([flat, share * bias, -share / self._components * flat, share / self._components * norm_bias])

    def spanned(self, texts: Float64s, moments: Moments, head: str, rank: int = PUBLISHED_RANK) -> Float64s:
        """Texts (T, dh + 4) in a head's coordinates, projected on the first `rank` right singular vectors of its
        uncentred outputs, as the published script does; fewer where the outputs have fewer dimensions."""
        mean = moments.mean(head)
        second = moments.covariance(head) + np.outer(mean, mean)  # X'X / n: its eigenvectors are X's singular vectors
        values, vectors = np.linalg.eigh(second)
        # eigenvalues are squared singular values
        data = values > _RANK_TOLERANCE**2 * values[-1]
        top = vectors[:, data][:, -rank:]
        projected: Float64s = texts @ top @ top.T
        return projected


def _parsed(column: str) -> tuple[str, int, int]:
    """(kind, layer, head) of a head's column or a component's; head 0 for components."""
    kind, separator, layer = column.rpartition("_L")
    return (kind, int(layer), 0) if separator else ("head", *parse_head_label(column))


def stream_allocated(
    run: Run,
    vectors: Sequence[str],
    columns: Sequence[str] = (),
    rows: Rows = ALL,
    size: int = BATCH_ROWS,
    published: PublishedAllocation | None = None,
) -> Iterator[RowBatch]:
    """`stream_rows` with heads and components in the published allocation (float32) where one is given.

    The embedding stays as it is; `initial` can be among the vectors.
    """
    if published is None:
        yield from stream_rows(run, vectors, columns, rows, size)
        return
    stored = [name for name in vectors if name != INITIAL]
    for batch in stream_rows(run, [*stored, RESIDUAL_MEANS], [*columns, *_SHARED], rows, size):
        shared = shared_of(batch)
        values = {INITIAL: np.empty((len(batch), 0), np.float32), **batch.vectors}
        yield RowBatch(
            vectors={
                name: values[name] if name == "embedding" else published(name, values[name], shared).astype(np.float32)
                for name in vectors
            },
            columns={name: batch.columns[name] for name in columns},
        )


def shared_of(batch: RowBatch) -> Shared:
    """What the columns of a batch share, which was read with `residual_means`, `scale` and `norm`."""
    return Shared(
        residual_means=batch.vectors[RESIDUAL_MEANS],
        scale=batch.columns["scale"].astype(np.float64),
        norm=batch.columns["norm"].astype(np.float64),
    )


def published_moments(run: Run, published: PublishedAllocation, heads: Sequence[str], rows: Rows = ALL) -> Moments:
    """Moments of heads' published outputs in `published.basis`, and of the embedding, in one pass over the rows."""
    total = empty_moments(published, heads, run.spec.embed_dim)
    for batch in stream_allocated(run, ["embedding", *heads], (), rows, 1024, published):
        # these numbers are computed and not stored: no rounding to float16
        total = merge([total, moments_of(total, batch.vectors, stored=False)])
    return total


def empty_moments(published: PublishedAllocation, heads: Sequence[str], embed_dim: int) -> Moments:
    """Of no rows, for heads in the published allocation and the embedding."""
    dim = published.head_dim
    return Moments(
        heads=tuple(heads),
        wide=("embedding",),
        count=0,
        head_mean=np.zeros((len(heads), dim)),
        head_scatter=np.zeros((len(heads), dim, dim)),
        wide_mean=np.zeros((1, embed_dim)),
        wide_scatter=np.zeros((1, embed_dim)),
    )
