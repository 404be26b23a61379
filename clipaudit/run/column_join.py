"""Rows of a table joined to the images of a run, by shard and key or by key alone, as columns of the run."""

from __future__ import annotations

import getpass
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pyarrow as pa

from clipaudit.errors import UsageError
from clipaudit.redact import public_url
from clipaudit.run.column_match import By, KeyedRows, Matches, match
from clipaudit.run.columns import (
    ARROW_TYPES,
    COLUMNS,
    ROW_GROUP,
    NameTakenError,
    publish_column,
    remove_values,
    restore_column,
    write_values,
)
from clipaudit.run.derived import require_writable
from clipaudit.run.reader import Run, RunPlace, opened
from clipaudit.run.records import COLUMN_NAME, ColumnRecord, StoredFile
from clipaudit.schema import as_tuples
from clipaudit.shards.sources.tables import is_table
from clipaudit.storage.directory import Storage

_EXAMPLES: Final = 3
_RESERVED: Final = frozenset({"label", "image", "attributes", "class_name", "shard", "member"})
_MOST_WRONG: Final = 0.45
_NO_FILE: Final = StoredFile(bytes=0, sha256="")


@dataclass(frozen=True, kw_only=True)
class JoinOptions:
    """How a table is joined to a run."""

    key: str = "key"
    """Column of the table with the images' keys."""
    shard: str | None = None
    """Column with their shards: ids, URLs or file names; None for `shard` where the table has it, else keys alone."""
    only: tuple[str, ...] = ()
    """Columns of the table to add; default: all others."""
    name: str | None = None
    """What the column is called in the run, where one is added."""
    prefix: str = ""
    """Put before every name."""
    replace: bool = False
    """Replace joined columns of the same names."""
    ignore_unknown: bool = False
    """Leave out rows that name no image of the run, instead of refusing the table."""
    encoding: str = "utf-8-sig"
    """Of a CSV, TSV or JSONL file."""
    author: str | None = None
    """Who adds the columns; None for the user's name on this machine."""
    error: tuple[float, int] | None = None
    """Share of wrong values, 0..0.45, and the images that it was measured on: an audit corrects for it (S6c)."""

    def __post_init__(self) -> None:
        as_tuples(self, "only")
        if self.error is not None and not (0 <= self.error[0] <= _MOST_WRONG and self.error[1] >= 1):
            raise UsageError(f"a share of wrong values lies in 0..{_MOST_WRONG}, on at least one image")


@dataclass(frozen=True, kw_only=True)
class JoinedTable:
    """What was joined, or would be."""

    columns: tuple[ColumnRecord, ...]
    """`rows` of each is the number of images that have a value."""
    by: By
    table_rows: int
    matched: int
    """Ok images that a row of the table names."""
    images: int
    """Ok images of the run."""
    unknown: int
    """Rows of the table that name no image of the run; they were left out."""
    unknown_examples: tuple[str, ...]


def add_columns(
    run: RunPlace, table: str | Path, options: JoinOptions | None = None, *, dry_run: bool = False
) -> JoinedTable:
    """Join the columns of a CSV, TSV, JSONL or Parquet file (path or URL) to a run; with `dry_run` write nothing.

    A row names its image by key, or by shard and key. All columns are written before the first counts; each is created
    exclusively, and where another process was faster with one of the names, all are taken back. Memory holds the table.
    UsageError, with the run unchanged, for a table that cannot be read, keys that repeat in it, keys that several
    images of the run have, unknown keys (unless ignored), a name that the run has, values of mixed kinds, or a run that
    is read-only; RunNotFound without a run.
    """
    options, reader, source = options or JoinOptions(), opened(run), str(table)
    refuse_state(reader)
    if not is_table(source):
        raise UsageError(f"{public_url(source)} is no CSV, TSV, JSONL or Parquet file by its name")
    if not dry_run:
        require_writable(reader.directory, COLUMNS)
    with _local(source) as path:
        rows = KeyedRows(path, options.encoding, options.key, options.shard, reader.history)
        names = _names(reader, rows.others, options)
        rows.read(list(names))
        with Path(path).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    matches = match(reader, rows)
    examples = tuple(rows.described(row) for row in matches.unknown[:_EXAMPLES].tolist())
    _check_unknown(reader, rows, matches, examples, options)
    facts = ColumnRecord(
        name="",
        kind="text",
        path="",
        file=_NO_FILE,
        rows=0,
        source=public_url(source) if "://" in source else str(Path(source).absolute()),
        source_sha256=sha256,
        source_column="",
        by=rows.by,
        unknown=len(matches.unknown),
        author=_user() if options.author is None else options.author,
        error_rate=None if options.error is None else options.error[0],
        error_images=None if options.error is None else options.error[1],
    )
    return JoinedTable(
        columns=_write(reader, rows, names, matches, facts, options.replace, dry_run=dry_run),
        by=rows.by,
        table_rows=len(rows),
        matched=matches.ok,
        images=len(reader),
        unknown=len(matches.unknown),
        unknown_examples=examples,
    )


def refuse_state(run: Run) -> None:
    """UsageError for `RUN@1`: columns are of the run, and every state of it has them."""
    if run.moment is not None:
        raise UsageError(
            f"columns belong to all states of a run: leave out @{run.moment.text} behind {run.directory.url}"
        )


def _write(
    run: Run,
    rows: KeyedRows,
    names: dict[str, str],
    matches: Matches,
    facts: ColumnRecord,
    replaced: bool,
    *,
    dry_run: bool,
) -> tuple[ColumnRecord, ...]:
    """Write and publish a column for each of `names` (in the table -> in the run), or only say what they would be."""
    directory = run.directory
    records: list[ColumnRecord] = []
    published: list[tuple[ColumnRecord, ColumnRecord | None]] = []  # each with the one that it replaces
    kinds = {column: rows.cells[column].kind() for column in names}  # a mixed column is refused before any is written
    try:
        for column, name in names.items():
            values = rows.cells[column].values(ARROW_TYPES[kinds[column]]).take(pa.array(matches.row))
            known = len(values) - values.null_count
            record = replace(facts, name=name, kind=kinds[column], source_column=column, rows=known)
            if not dry_run:
                path, file = write_values(directory, name, _pieces(matches, values), record.kind)
                record = replace(record, path=path, file=file)
            records.append(record)
        for record in () if dry_run else records:
            # one by one: when one fails, those before it are taken back
            published.append((record, publish_column(directory, record, replace=replaced)))  # noqa: PERF401
    except BaseException as error:  # also KeyboardInterrupt: all columns are added, or none
        for record, older in published:
            restore_column(directory, record, older)
        for record in records[len(published) :]:
            if record.path:
                remove_values(directory, record)
        if isinstance(error, NameTakenError):
            raise UsageError(
                f"another process has just added a column {error} to the run at {directory.url}: nothing was added;"
                " give --replace, or another --name"
            ) from None
        raise
    for _, older in published:
        if older is not None:
            remove_values(directory, older)
    return tuple(records)


def _pieces(matches: Matches, values: pa.ChunkedArray) -> Iterator[pa.Table]:
    """The rows that have a value, a row group at a time."""
    for start in range(0, len(values), ROW_GROUP):
        part = slice(start, start + ROW_GROUP)
        table = pa.table(
            {
                "shard_id": pa.array(matches.shard_id[part]),
                "index": pa.array(matches.index[part]),
                "value": values.slice(start, ROW_GROUP),
            }
        )
        known = table.filter(table["value"].is_valid())
        if len(known):  # an empty row group would have no least and greatest shard
            yield known


def _names(run: Run, columns: list[str], options: JoinOptions) -> dict[str, str]:
    """Column of the table -> name in the run, of those that are added. UsageError for a name that is not allowed."""
    missing = [name for name in options.only if name not in columns]
    if missing:
        raise UsageError(f"--only {missing[0]}: the table has {', '.join(columns) or 'no other column than the keys'}")
    chosen = list(options.only) or columns
    if not chosen:
        raise UsageError("the table has no other column than the keys")
    if options.name is not None and len(chosen) != 1:
        raise UsageError(f"--name names one column, and {len(chosen)} are added: choose one with --only, or --prefix")
    names = {column: options.prefix + (options.name or column) for column in chosen}
    for column, name in names.items():
        if COLUMN_NAME.fullmatch(name) is None:
            raise UsageError(
                f"{name!r} cannot be the name of a column (letters, digits, _ and -, beginning with a letter): give"
                f" --only {column!r} --name NAME, or leave it out with --only"
            )
        _check_free(run, column, name, options)
    return names


def _check_free(run: Run, column: str, name: str, options: JoinOptions) -> None:
    where = f"the run at {run.directory.url}"
    if name in run.joined:
        if not options.replace:
            raise UsageError(
                f"{where} has a joined column {name!r} already: give --replace, another --name or --prefix"
            )
    elif name in run.columns or name in run.spec.attributes or name in _RESERVED:
        raise UsageError(
            f"{where} has a column {name!r} of its own, which cannot be replaced: give --prefix, --only {column} --name"
            " NAME, or leave it out with --only"
        )


def _check_unknown(
    run: Run, rows: KeyedRows, matches: Matches, examples: tuple[str, ...], options: JoinOptions
) -> None:
    if not len(matches.unknown):
        return
    such = ", ".join(examples)
    names = "row names" if len(matches.unknown) == 1 else "rows name"
    counted = f"{len(matches.unknown):,} of {len(rows):,} {names} no image of the run at {run.directory.url}"
    if len(matches.unknown) == len(rows):
        raise UsageError(
            f"{counted}, such as {such}; its keys are such as {run_key(run)}: give --key, the column of keys"
        )
    if not options.ignore_unknown:
        raise UsageError(f"{counted}, such as {such}: mend them, or leave them out with --ignore-unknown")


def run_key(run: Run) -> str:
    """The key of a run's first row, for messages."""
    return next((str(batch["key"][0]) for batch in run.batches(["key"], 1)), "none")


@contextmanager
def _local(source: str) -> Iterator[str]:
    """The table as a local file; one at a URL is copied for as long as it is read."""
    if "://" not in source:
        yield source
        return
    folder, _, name = source.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="clipaudit-") as aside:
        copy = str(Path(aside) / name.partition("?")[0])
        try:
            Storage(folder).fetch(name, copy)
        except FileNotFoundError:
            raise UsageError(f"{public_url(source)} is not there") from None
        try:
            yield copy
        except UsageError as error:
            raise UsageError(str(error).replace(copy, public_url(source))) from None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in containers
        return ""
