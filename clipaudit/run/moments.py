"""Mergeable count, mean and scatter of the vector columns of some rows (docs/method.md 2).

Moments are those of the values as stored, rounded to float16, so that a shard's file and its rows give the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from clipaudit.arrays import ArrayHolder, Float64s
from clipaudit.errors import UsageError
from clipaudit.schema import Names, TableSpec, as_names

_LISTED = 8
"""Names that an error message lists."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Moments(ArrayHolder):
    """Count, mean and scatter (sum of outer products of deviations) of some columns over some rows; float64.

    >>> moments = Run("demo-out/birds-run").moments(["L05H00", "L05H01"])
    >>> moments.mean("L05H00").shape, moments.covariance("L05H01").shape
    ((32,), (32, 32))
    """

    heads: tuple[str, ...]
    """Columns with full scatter."""
    wide: tuple[str, ...]
    """Columns of joint-space vectors (embedding, components), with the scatter's diagonal only."""
    count: int
    """Rows."""
    head_mean: Float64s
    """(heads, dh)"""
    head_scatter: Float64s
    """(heads, dh, dh), symmetric."""
    wide_mean: Float64s
    """(wide, D)"""
    wide_scatter: Float64s
    """(wide, D): sums of squared deviations."""

    @staticmethod
    def empty(spec: TableSpec) -> Moments:
        """Of no rows, for every vector column of a table."""
        wide = wide_columns(spec)
        return Moments(
            heads=spec.heads,
            wide=wide,
            count=0,
            head_mean=np.zeros((len(spec.heads), spec.head_dim)),
            head_scatter=np.zeros((len(spec.heads), spec.head_dim, spec.head_dim)),
            wide_mean=np.zeros((len(wide), spec.embed_dim)),
            wide_scatter=np.zeros((len(wide), spec.embed_dim)),
        )

    @property
    def lengths(self) -> dict[str, int]:
        """Numbers of one row in each column."""
        head, wide = int(self.head_mean.shape[1]), int(self.wide_mean.shape[1])
        return dict.fromkeys(self.heads, head) | dict.fromkeys(self.wide, wide)

    def mean(self, column: str | None = None) -> Float64s:
        """(dh,) of a head, (D,) of `embedding` and components, float64; zeros when there are no rows.

        None stands for the only head. UsageError when there are no moments of the column, or several heads to choose
        from.
        """
        name = self._only_head() if column is None else column
        mean: Float64s = (
            self.head_mean[self.heads.index(name)] if name in self.heads else self.wide_mean[self._wide(name)]
        )
        return mean

    def covariance(self, head: str | None = None) -> Float64s:
        """(dh, dh) population covariance of a head, scatter / count, float64; zeros when there are no rows.

        None stands for the only head. UsageError as in `mean`, and for columns that are no heads.
        """
        name = self._only_head() if head is None else head
        if name not in self.heads:
            raise UsageError(f"there is no covariance of {name}: these moments hold {_listed(self.heads)}")
        scatter: Float64s = self.head_scatter[self.heads.index(name)]
        return scatter / max(self.count, 1)

    def variance(self, column: str | None = None) -> Float64s:
        """(dh,) or (D,) population variances of a column's numbers, float64; see `mean`."""
        name = self._only_head() if column is None else column
        if name in self.heads:
            return np.diagonal(self.covariance(name)).copy()
        scatter: Float64s = self.wide_scatter[self._wide(name)]
        return scatter / max(self.count, 1)

    def select(self, heads: Names, wide: Names = ()) -> Moments:
        """The same for some of the columns, in the order given; ValueError when one is not there."""
        heads, wide = as_names(heads), as_names(wide)
        rows = [self.heads.index(name) for name in heads]
        others = [self.wide.index(name) for name in wide]
        return Moments(
            heads=heads,
            wide=wide,
            count=self.count,
            head_mean=self.head_mean[rows],
            head_scatter=self.head_scatter[rows],
            wide_mean=self.wide_mean[others],
            wide_scatter=self.wide_scatter[others],
        )

    def _only_head(self) -> str:
        if len(self.heads) != 1:
            raise UsageError(f"these moments are of {len(self.heads)} heads: name one of {_listed(self.heads)}")
        return self.heads[0]

    def _wide(self, column: str) -> int:
        if column not in self.wide:
            raise UsageError(f"there are no moments of {column}: there are {_listed((*self.heads, *self.wide))}")
        return self.wide.index(column)


def wide_columns(spec: TableSpec) -> tuple[str, ...]:
    """The vector columns that live in the joint space."""
    return ("embedding", *spec.components)


def _listed(names: Sequence[str]) -> str:
    first = ", ".join(names[:_LISTED])
    return f"{first}, ... ({len(names)} in all)" if len(names) > _LISTED else first or "none"


def merge(parts: Iterable[Moments]) -> Moments:
    """The moments of the rows of all parts together; the order matters to rounding only.

    Raises ValueError without parts, and for parts of different columns.
    """
    iterator = iter(parts)
    total = next(iterator, None)
    if total is None:
        raise ValueError("nothing to merge: there is no Moments among the parts")
    for part in iterator:
        total = _merge_two(total, part)
    return total


def _merge_two(a: Moments, b: Moments) -> Moments:
    """The pairwise update of Chan, Golub and LeVeque (1983), with d = mean_b - mean_a and n = n_a + n_b:

    mean = mean_a + d n_b / n        scatter = scatter_a + scatter_b + d d' n_a n_b / n
    """
    if (a.heads, a.wide) != (b.heads, b.wide):
        raise ValueError("moments of different columns cannot be merged")
    if a.count == 0 or b.count == 0:
        return a if b.count == 0 else b
    count = a.count + b.count
    weight, product = b.count / count, a.count * (b.count / count)
    heads, wide = b.head_mean - a.head_mean, b.wide_mean - a.wide_mean  # d
    return replace(
        a,
        count=count,
        head_mean=a.head_mean + heads * weight,
        head_scatter=a.head_scatter + b.head_scatter + heads[:, :, None] * heads[:, None, :] * product,
        wide_mean=a.wide_mean + wide * weight,
        wide_scatter=a.wide_scatter + b.wide_scatter + wide**2 * product,
    )


def moments_of(template: Moments, vectors: Mapping[str, npt.NDArray[Any]], *, stored: bool = True) -> Moments:
    """Moments of rows in memory, for the columns of `template`.

    vectors: (n, length) floats of any precision by column, rounded to float16 as they are stored, or with `stored`
    False taken as they are. Empty for no rows.
    """
    head_mean, head_scatter = np.zeros_like(template.head_mean), np.zeros_like(template.head_scatter)
    wide_mean, wide_scatter = np.zeros_like(template.wide_mean), np.zeros_like(template.wide_scatter)
    count = len(next(iter(vectors.values()), ()))
    if count:
        # In two passes, mean first: a sum of squares minus a squared sum would lose the digits of a small variance.
        for row, name in enumerate(template.heads):
            head_mean[row], deviations = _centred(vectors[name], stored)
            head_scatter[row] = deviations.T @ deviations
        for row, name in enumerate(template.wide):
            wide_mean[row], deviations = _centred(vectors[name], stored)
            wide_scatter[row] = np.einsum("nd,nd->d", deviations, deviations)
    return replace(
        template,
        count=count,
        head_mean=head_mean,
        head_scatter=head_scatter,
        wide_mean=wide_mean,
        wide_scatter=wide_scatter,
    )


def _centred(vectors: npt.NDArray[Any], stored: bool) -> tuple[Float64s, Float64s]:
    """(n, length) -> the mean (length,) and the deviations from it (n, length), float64, of the values as stored."""
    values = (vectors.astype(np.float16, copy=False) if stored else vectors).astype(np.float64)
    mean: Float64s = values.mean(axis=0)
    values -= mean
    return mean, values
