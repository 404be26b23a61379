"""Reading a run: chosen heads, columns and moments of its committed shards as numpy, without loading the rest."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipaudit.errors import ClipauditError, IntegrityError, UsageError
from clipaudit.run.basis import Basis, read_basis
from clipaudit.run.directory import RunDirectory
from clipaudit.run.moments import Moments, merge, moments_of
from clipaudit.run.moments_file import load_moments
from clipaudit.run.projections import open_table, stored_types, vectors_of
from clipaudit.run.records import CommitRecord
from clipaudit.run.row_moments import moments_by_label
from clipaudit.run.summary import Coverage, RunSummary
from clipaudit.run.tables import RunTables, Shards
from clipaudit.run.vectors import Vectors, as_numpy, plain_column
from clipaudit.schema import Label, Names, Several, as_names

RunPlace: TypeAlias = "Run | RunDirectory | str | os.PathLike[str]"
"""A run, or where it is."""

_THREADS = min(8, 2 * (os.cpu_count() or 1))
_WINDOW = 4 * _THREADS


class Run(RunTables):
    """A run for reading, as its committed shards are when this object first looks; make a new one to see more.

    Arguments that take names (heads, columns, shards) take one or several. Raises RunNotFound from the constructor when
    there is no run at `path`, UsageError from a method that is given a name that the run does not have, and
    IntegrityError from every method that meets a missing or damaged file.

    >>> run = Run("demo-out/birds-run")
    >>> head = run.heads("L05H00", columns="attributes.place")  # reads these two columns only
    >>> head.values.shape == (len(run), 32)
    True
    >>> sorted(set(head["attributes.place"]))
    ['land', 'water']
    >>> run.moments("L05H00", label=1).covariance().shape
    (32, 32)
    """

    def __repr__(self) -> str:
        return self._summary().text()

    def _repr_html_(self) -> str:
        """A table of what is in the run, for notebooks."""
        return self._summary().html()

    def __len__(self) -> int:
        """Ok rows in committed shards."""
        return sum(record.ok for record in self.records.values())

    # -- vectors -----------------------------------------------------------------------------------------------------

    @overload
    def heads(
        self, head: str, columns: Names | None = None, shards: Shards = None, dtype: npt.DTypeLike = np.float16
    ) -> Vectors: ...
    @overload
    def heads(
        self, head: Several, columns: Names | None = None, shards: Shards = None, dtype: npt.DTypeLike = np.float16
    ) -> dict[str, Vectors]: ...
    def heads(
        self,
        head: str | Several,
        columns: Names | None = None,
        shards: Shards = None,
        dtype: npt.DTypeLike = np.float16,
    ) -> Vectors | dict[str, Vectors]:
        """A head's coordinates of every ok row, (n, dh), with `columns` (default: `key`, and `label` if there is one).

        One head gives `Vectors`, a list or tuple of heads a dict of them by name. `shards` limits to some shard ids.
        UsageError when a head, a column or a shard is not in the run.
        """
        self._check_heads(as_names(head))
        by_name = self._read_vectors(as_names(head), columns, shards, dtype)
        return by_name[head] if isinstance(head, str) else by_name

    def embedding(
        self, columns: Names | None = None, shards: Shards = None, dtype: npt.DTypeLike = np.float16
    ) -> Vectors:
        """The unit embedding of every ok row, (n, D); see `heads`."""
        return self.vectors("embedding", columns, shards, dtype)

    @overload
    def vectors(
        self, name: str, columns: Names | None = None, shards: Shards = None, dtype: npt.DTypeLike = np.float16
    ) -> Vectors: ...
    @overload
    def vectors(
        self, name: Several, columns: Names | None = None, shards: Shards = None, dtype: npt.DTypeLike = np.float16
    ) -> dict[str, Vectors]: ...
    def vectors(
        self,
        name: str | Several,
        columns: Names | None = None,
        shards: Shards = None,
        dtype: npt.DTypeLike = np.float16,
    ) -> Vectors | dict[str, Vectors]:
        """Any vector column of every ok row: a head, `embedding` or a component; one or several as in `heads`."""
        names = as_names(name)
        unknown = [column for column in names if column not in self.spec.vectors]
        if unknown:
            listed = ", ".join(self.spec.vectors)
            raise UsageError(f"{unknown[0]!r} is not a vector column of the run: those are {listed}")
        by_name = self._read_vectors(names, columns, shards, dtype)
        return by_name[name] if isinstance(name, str) else by_name

    def _read_vectors(
        self, names: Sequence[str], columns: Names | None, shards: Shards, dtype: npt.DTypeLike
    ) -> dict[str, Vectors]:
        asked = self._default_columns() if columns is None else as_names(columns)
        columns = self._full_names(asked)
        records = self._chosen(shards)
        starts = np.cumsum([0, *(record.ok for record in records)])
        values = {name: self._empty(name, int(starts[-1]), dtype) for name in names}
        # heads are small parts of large files: threads hide the latency of many of them
        with ThreadPoolExecutor(_THREADS) as pool:
            windows = [{name: array[a:b] for name, array in values.items()} for a, b in itertools.pairwise(starts)]
            tables = list(pool.map(lambda record, out: self._fill(record, columns, out), records, windows))
        lengths = [record.ok for record in records]
        joined = self._joined_values([name.partition(".")[0] for name in columns])
        if joined is not None:
            pairs = zip(records, tables, strict=True)
            tables = [self._with_joined(part, record.shard_id, joined) for record, part in pairs]
        table = pa.concat_tables(tables) if tables else self._schema.empty_table()
        table = self.typed(table) if any(name.startswith("attributes") for name in columns) else table
        shard_id = np.repeat(np.array([record.shard_id for record in records], np.int32), lengths)
        index = np.concatenate([np.empty(0, np.int32), *(np.asarray(part["index"], np.int32) for part in tables)])
        others = {given: as_numpy(plain_column(table, column)) for given, column in zip(asked, columns, strict=True)}
        return {
            name: Vectors(name=name, values=array, shard_id=shard_id, index=index, columns=others)
            for name, array in values.items()
        }

    def _empty(self, name: str, rows: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        try:
            return np.empty((rows, self.spec.vectors[name]), dtype)
        except (MemoryError, ValueError) as error:
            raise IntegrityError(
                f"{name} of the {rows:,} rows that the run at {self.directory.url} has committed does not fit into"
                " memory: ask for some shards at a time"
            ) from error

    def _fill(self, record: CommitRecord, columns: Sequence[str], out: Mapping[str, npt.NDArray[Any]]) -> pa.Table:
        """Copy one shard's ok values of vector columns into `out`, (ok, length) by name; returns its other columns."""
        others = self._stored(list(dict.fromkeys(["index", *(column.partition(".")[0] for column in columns)])))
        with open_table(self.directory, record.projections) as file:
            table = file.read([*out, *others], stored_types(self.spec))
        rest = table.select(others)
        for name, target in out.items():
            values, valid = vectors_of(table[name])
            if len(values) != record.rows or int(valid.sum()) != record.ok:
                raise IntegrityError(
                    f"{self.directory.storage.full(record.projections)} has {int(valid.sum())} ok rows of"
                    f" {len(values)}, and its commit record says {record.ok} of {record.rows}"
                )
            whole = record.ok == record.rows
            target[...] = values if whole else values[valid]
            rest = rest if whole or len(rest) == record.ok else rest.filter(pa.array(valid))
        return rest

    # -- moments, basis, coverage ------------------------------------------------------------------------------------

    def moments(self, heads: Names | None = None, label: Label = None, shards: Shards = None) -> Moments:
        """Merged moments over the ok rows; of one head or some, or of every vector column; of one label's rows.

        Label moments that a shard's file does not hold are computed from its rows: the same numbers, only slower.
        """
        template = self._template(None if heads is None else as_names(heads))
        if label is not None:
            self._check_columns(["label"])
        records = self._chosen(shards)
        total = template
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(records), _WINDOW):  # not all at once: what waits to be merged takes memory
                window = records[start : start + _WINDOW]
                total = merge([total, *pool.map(lambda record: self._shard_moments(record, template, label), window)])
        return total

    def label_counts(self, shards: Shards = None) -> dict[Label, int]:
        """Ok rows by label, most frequent first; empty when the run has no labels.

        A row with several labels counts for each, one with an empty list for none.
        """
        counts: Counter[Label] = Counter()
        for record in self._chosen(shards):
            counts.update(load_moments(self.directory, record.moments, labels=()).counts)
        return dict(counts.most_common())

    def class_labels(self) -> dict[Label, int]:
        """`label_counts`, with at least one label; UsageError says why there is none."""
        counts = self.label_counts()
        if all(label is None for label in counts):
            if self.spec.label_kind is None:
                raise UsageError("the run has no labels: audit again with --label")
            raise UsageError(f"the run at {self.directory.url} has no image with a label{self.lost_images()}")
        return counts

    def lost_images(self) -> str:
        """`: 40 of 40 images are bad_label, such as ...`, to follow what the run lacks; empty where none were lost."""
        skipped = self.coverage().skipped
        if not skipped:
            return ""
        reason = max(skipped, key=lambda name: skipped[name])
        rows = sum(record.rows for record in self.records.values())
        examples = [record.details[reason][0] for record in self.records.values() if record.details.get(reason)]
        such = f", such as {examples[0]}" if examples else ""
        return f": {skipped[reason]:,} of {rows:,} images are {reason}{such}"

    def _template(self, heads: Sequence[str] | None) -> Moments:
        empty = Moments.empty(self.spec)
        if heads is None:
            return empty
        self._check_heads(heads)
        return empty.select(heads, ())

    def _shard_moments(self, record: CommitRecord, template: Moments, label: Label) -> Moments:
        stored = load_moments(self.directory, record.moments, labels=() if label is None else (label,))
        if stored.total.lengths != self.spec.measured:
            full = self.directory.storage.full(record.moments)
            raise IntegrityError(f"{full} is damaged: it holds moments of other columns than the run's")
        if label is None:
            return stored.total.select(template.heads, template.wide)
        if label not in stored.counts:
            return moments_of(template, {})
        if label in stored.labels:
            return stored.labels[label].select(template.heads, template.wide)
        return moments_by_label(self.directory, record.projections, template, (label,))[label]

    def basis(self) -> Basis:
        """Q and T of every stored head, the readout and the constants."""
        return read_basis(self.directory, self.spec.heads)

    def coverage(self) -> Coverage:
        """How much of the input the committed shards hold."""
        skipped: Counter[str] = Counter()
        for record in self.records.values():
            skipped.update(record.skipped)
        return Coverage(
            shards=len(self.manifest.shards),
            committed=len(self.records),
            truncated=sum(record.truncated is not None for record in self.records.values()),
            rows=sum(record.rows for record in self.records.values()),
            ok=len(self),
            skipped=dict(sorted(skipped.items())),
            bytes_in=sum(shard.size for shard in self.manifest.shards),
            bytes_good=sum(record.bytes_good for record in self.records.values()),
        )

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _summary(self) -> RunSummary:
        try:
            coverage: Coverage | str = self.coverage()
        except ClipauditError as error:  # a repr must not raise
            coverage = str(error)
        return RunSummary(
            url=self.url,
            model=str(self.manifest.model.get("name", "")),
            heads=self.spec.heads,
            head_dim=self.spec.head_dim,
            embed_dim=self.spec.embed_dim,
            columns=self.flat_columns(),
            coverage=coverage,
        )

    def _default_columns(self) -> tuple[str, ...]:
        return ("key", "label") if self.spec.label_kind is not None else ("key",)

    def _check_heads(self, heads: Sequence[str]) -> None:
        stored = self.spec.heads
        unknown = [head for head in heads if head not in stored]
        if unknown:
            listed = ", ".join(stored) if len(stored) <= 8 else f"{stored[0]} to {stored[-1]} ({len(stored)} heads)"
            raise UsageError(f"the run at {self.directory.url} stores no head {unknown[0]!r}: it stores {listed}")


def opened(run: RunPlace) -> Run:
    """The run itself, or the one at a path or URL; RunNotFound when there is none."""
    return run if isinstance(run, Run) else Run(run)
