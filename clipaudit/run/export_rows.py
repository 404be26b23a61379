"""The rows of an export: ok rows that pass filters, with shard URLs, member names, class names and flat attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipaudit.arrays import Ints
from clipaudit.errors import UsageError
from clipaudit.run.classes import ClassNames
from clipaudit.run.reader import Run
from clipaudit.run.rows import Rows, check_rows, chosen_rows, row_filter
from clipaudit.run.stored_images import StoredImages
from clipaudit.run.vectors import as_objects
from clipaudit.schema import OK, Label, Names

SHARD: Final = "shard"
MEMBER: Final = "member"
CLASS: Final = "class_name"
"""Columns that only exports have: the shard's URL, the image's file name in it, and what the label is called."""
_BATCH_BYTES: Final = 32 * 2**20


class _ClassNames(dict[Label, str | None]):
    """Label -> name, each looked up once."""

    def __init__(self, classes: ClassNames) -> None:
        super().__init__()
        self._classes = classes

    def __missing__(self, label: Label) -> str | None:
        self[label] = self._classes.name_of(label)
        return self[label]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of an export."""

    name: str
    """In the export."""
    source: str
    """In the run: `label`, `attributes.place`, or one of SHARD, MEMBER and CLASS."""


class ExportRows:
    """Chosen columns of a run's ok rows that pass filters, streamed as tables; memory is bounded by one batch."""

    def __init__(
        self,
        run: Run,
        *,
        heads: Sequence[str] | None,
        columns: Sequence[str] | None,
        where: Names,
        on_note: Callable[[str], None],
    ) -> None:
        """`heads` limits the heads, `columns` names every column. UsageError for what the run does not have, and when
        no row passes. `on_note` is told which shards' member names are not known.
        """
        self.run, self._on_note = run, on_note
        self._urls = [shard.url for shard in run.manifest.shards]
        self._rows: Rows = chosen_rows(run, where)
        if self._rows.where:
            check_rows(run, self._rows)
        self.columns: tuple[Column, ...] = self._chosen(heads, columns)
        self.images = StoredImages(run)
        """Reads the rows' image files; each shard is compared once with what the run recorded of it."""
        self._told: set[int] = set()

    @property
    def plain(self) -> tuple[Column, ...]:
        """The columns that are no vectors."""
        return tuple(column for column in self.columns if column.source not in self.run.spec.vectors)

    @property
    def vectors(self) -> dict[str, int]:
        """Name -> length of the vector columns."""
        lengths = self.run.spec.vectors
        return {column.source: lengths[column.source] for column in self.columns if column.source in lengths}

    def count(self) -> int:
        """How many rows there are."""
        if not self._rows.where:
            return len(self.run)
        condition = row_filter(self.run, self._rows)
        names = list(dict.fromkeys(["status", *(column.path[0] for column in condition.columns)]))
        return sum(int(self._mask(batch).sum()) for batch in self.run.batches(names))

    def schema(self) -> pa.Schema:
        """Of the plain columns."""
        return pa.schema([pa.field(column.name, self._type(column)) for column in self.plain])

    def batches(self) -> Iterator[tuple[pa.Table, pa.RecordBatch]]:
        """(plain columns by their names in the export, the same rows as stored) a batch at a time."""
        lengths = self.run.spec.vectors
        width = sum(4 * length for length in self.vectors.values()) + 256
        condition = row_filter(self.run, self._rows)
        needed = ["status", "shard_id", "key", "offset", *(column.path[0] for column in condition.columns)]
        needed += [{CLASS: "label"}.get(column.source, column.source.partition(".")[0]) for column in self.columns]
        names = [name for name in dict.fromkeys(needed) if name in self.run.columns]
        for stored in self.run.batches(names, rows=max(64, min(65_536, _BATCH_BYTES // width))):
            chosen = stored.filter(pa.array(self._mask(stored)))
            if not chosen.num_rows:
                continue
            typed = self.run.typed(chosen.select([name for name in names if name not in lengths]))
            arrays = [self._array(column, typed) for column in self.plain]
            yield pa.Table.from_arrays(arrays, schema=self.schema()), chosen

    # -- columns -----------------------------------------------------------------------------------------------------

    def _chosen(self, heads: Sequence[str] | None, columns: Sequence[str] | None) -> tuple[Column, ...]:
        run = self.run
        flat = run.flat_columns(vectors=True)
        named = self._are_named(asked=columns is not None and CLASS in columns)
        place = flat.index("key") + 1
        known = [*flat[:place], SHARD, MEMBER, *([CLASS] if named else []), *flat[place:]]
        if columns is None:
            self._check("head", heads or (), run.head_labels)
            left_out = set() if heads is None else set(run.head_labels) - set(heads)
            asked = [name for name in known if name not in left_out]
        else:
            short = {name.partition(".")[2]: name for name in known if name.startswith("attributes.")}
            asked = [name if name in known else short.get(name, name) for name in dict.fromkeys(columns)]
            asked = [each for name in asked for each in ([*short.values()] if name == "attributes" else [name])]
            self._check("column", asked, known)
        taken = {name for name in known if not name.startswith("attributes.")}
        names = [name.partition(".")[2] if name.startswith("attributes.") else name for name in asked]
        return tuple(
            Column(name=source if source != name and name in taken else name, source=source)
            for name, source in zip(names, asked, strict=True)
        )

    def _are_named(self, *, asked: bool) -> bool:
        """Whether the run's labels have names; where files of them disagree that is an error if they are asked for."""
        try:
            return self.run.class_names is not None
        except UsageError as error:
            if asked:
                raise
            self._on_note(f"there is no column {CLASS}: {error}")
            return False

    @cached_property
    def _class_names(self) -> _ClassNames:
        classes = self.run.class_names
        assert classes is not None, "the column is chosen where there are names"
        return _ClassNames(classes)

    def _check(self, kind: str, asked: Sequence[str], known: Sequence[str]) -> None:
        for name in asked:
            if name not in known:
                stored = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
                raise UsageError(f"the run at {self.run.directory.url} has no {kind} {name!r}: it has {stored}")

    def _type(self, column: Column) -> pa.DataType:
        if column.source == CLASS and self.run.spec.multi_label:
            return pa.list_(pa.string())
        if column.source in (SHARD, MEMBER, CLASS):
            return pa.string()
        outer, _, inner = column.source.partition(".")
        if outer == "attributes" and inner:
            return self.run.attribute_types[inner]
        kind = self.run.schema(outer).field(outer).type
        return kind.field(inner).type if inner else kind

    def _array(self, column: Column, rows: pa.RecordBatch) -> pa.Array:
        if column.source == SHARD:
            return pa.array([self._urls[number] for number in rows["shard_id"].to_pylist()], pa.string())
        if column.source == MEMBER:
            return self._members(rows)
        if column.source == CLASS:
            names = self._class_names
            labels = as_objects(rows["label"]).tolist()
            if self.run.spec.multi_label:  # a label without a name is its own, so that names and labels go together
                named = [[names[label] or str(label) for label in several] for several in labels]
                return pa.array(named, pa.list_(pa.string()))
            return pa.array([names[label] for label in labels], pa.string())
        outer, _, inner = column.source.partition(".")
        return pc.struct_field(rows[outer], inner) if inner else rows[outer]

    def _members(self, rows: pa.RecordBatch) -> pa.Array:
        numbers = np.asarray(rows["shard_id"].to_numpy(), np.int64)
        names: list[str | None] = []
        for shard in np.unique(numbers).tolist():  # a batch holds rows of one shard
            offsets: Ints = np.asarray(rows["offset"].fill_null(-1).to_numpy(), np.int64)
            names += self.images.members(shard, rows["key"].to_pylist(), offsets)
            fault = self.images.fault(shard)
            if fault is not None and shard not in self._told:
                self._told.add(shard)
                self._on_note(f"member names are not known: {self._urls[shard]}: {fault}")
        return pa.array(names, pa.string())

    def _mask(self, rows: pa.RecordBatch) -> Any:  # noqa: ANN401 - a bool array
        """(n,) which rows are ok and pass the filters."""
        ok = np.asarray(pc.equal(rows["status"], OK).to_numpy(zero_copy_only=False), np.bool_)
        return ok & row_filter(self.run, self._rows).mask(rows)
