"""The moments of an attempt at a shard while its rows come in, and which labels get moments of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from clipaudit.arrays import Floats
from clipaudit.config import LabelMoments
from clipaudit.run.directory import RunDirectory
from clipaudit.run.moments import Moments, merge, moments_of
from clipaudit.run.moments_file import ShardMoments, moments_bytes, save_moments
from clipaudit.run.records import StoredFile
from clipaudit.run.row_moments import moments_by_label
from clipaudit.schema import Label, SampleLabel, Shard, TableSpec, labels_in

LABEL_MOMENTS_SHARE: Final = 0.0125
"""Under `auto`, a label's moments are stored when they cost at most this share of its rows' vectors in the shard."""
LABEL_MOMENTS_BYTES: Final = 256 * 2**20
"""Largest size of the label moments in one shard's file, under `all` too; bounds the memory of whoever makes them."""

_BLOCK_BYTES: Final = 8 * 2**20
_BLOCK_ROWS: Final = 1024


class MomentsAccumulator:
    """Moments of one attempt's rows, in memory that does not grow with the shard or with the rows of a label.

    label_moments: which labels get moments of their own in the shard's file. `auto`: those that cost little beside
    their rows; `all` that fit into 256 MiB; `none`.
    """

    def __init__(self, spec: TableSpec, label_moments: LabelMoments = "auto") -> None:
        self._spec, self._policy = spec, label_moments
        self._total = Moments.empty(spec)
        self._counts: Counter[Label] = Counter()
        self._capacity = max(64, min(_BLOCK_ROWS, _BLOCK_BYTES // max(spec.vector_bytes, 1)))
        self._block = {name: np.empty((self._capacity, dim), np.float16) for name, dim in spec.measured.items()}
        self._filled = 0

    @property
    def count(self) -> int:
        """Rows so far."""
        return self._total.count + self._filled

    def update(self, vectors: Mapping[str, Floats], labels: Sequence[SampleLabel] | None = None) -> None:
        """Add n ok samples: (n, length) floats of every column of `spec.measured`, and n labels (or tuples of them)
        if the table has any.

        Raises ValueError when labels and rows differ in number, and when a number is not finite as float16, which is
        noticed at the latest by `finish`; the projections writer turns such samples into failures before.
        """
        rows = len(next(iter(vectors.values()), ()))
        if labels is not None:
            if len(labels) != rows:
                raise ValueError(f"{len(labels)} labels for {rows} rows")
            for label in labels:
                self._counts.update(labels_in(label) if isinstance(label, tuple) else (label,))
        done = 0
        while done < rows:
            piece = min(rows - done, self._capacity - self._filled)
            window = slice(self._filled, self._filled + piece)
            # beyond float16 a number becomes infinite here, and `_absorb` raises
            with np.errstate(over="ignore"):
                for name, block in self._block.items():
                    block[window] = vectors[name][done : done + piece]
            self._filled += piece
            done += piece
            if self._filled == self._capacity:
                self._absorb()

    def _absorb(self) -> None:
        block = {name: values[: self._filled] for name, values in self._block.items()}
        self._filled = 0
        with np.errstate(invalid="ignore"):
            moments = moments_of(self._total, block)
        # a sum of squares is finite exactly when all its terms are
        if not (np.isfinite(moments.head_scatter).all() and np.isfinite(moments.wide_scatter).all()):
            raise ValueError("a row that is not finite as float16 cannot be counted")
        self._total = merge((self._total, moments))

    def finish(self, run_dir: RunDirectory, projections: str) -> ShardMoments:
        """The moments of all rows so far, with those of the labels that are to be stored.

        The labels' moments are computed from the rows in the projections file, which must be closed: only at a shard's
        end is it known which labels have enough rows. Raises as `update`, and IntegrityError for a damaged file.
        """
        if self._filled:
            self._absorb()
        counts = dict(sorted(self._counts.items(), key=lambda item: str(item[0])))
        chosen = self._chosen_labels()
        return ShardMoments(
            total=self._total, counts=counts, labels=moments_by_label(run_dir, projections, self._total, chosen)
        )

    def save(self, run_dir: RunDirectory, shard: Shard, attempt: str) -> tuple[str, StoredFile]:
        """Write the attempt's moments file, after its projections file is closed; returns its path, size and hash.

        Raises as `finish`, and StorageFull when there is no space left.
        """
        path = run_dir.moments_path(shard.id, attempt)
        return path, save_moments(run_dir, path, self.finish(run_dir, run_dir.projections_path(shard.id, attempt)))

    def _chosen_labels(self) -> list[Label]:
        """Labels to store, most rows first; none where every row has the same one alone: that of the total."""
        if self._policy == "none" or list(self._counts.values()) in ([], [self._total.count]):
            return []
        cost = moments_bytes(self._spec)
        chosen: list[Label] = []
        for label, rows in self._counts.most_common():
            pays = self._policy == "all" or cost <= LABEL_MOMENTS_SHARE * rows * self._spec.vector_bytes
            # most rows first: a later label pays no better, and the space is full for it too
            if not pays or (len(chosen) + 1) * cost > LABEL_MOMENTS_BYTES:
                break
            chosen.append(label)
        return chosen
