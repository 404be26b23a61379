"""A folder of images with a table that names them to a catalogue: path and class by their columns, all columns kept."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from clipaudit.errors import UsageError
from clipaudit.shards.sources.catalogue import Catalogue
from clipaudit.shards.sources.options import SourceOptions
from clipaudit.shards.sources.paths import ListedFile, is_absolute, is_address, look_up
from clipaudit.shards.sources.tables import ImageTable, Row, open_table

PATH_COLUMNS: Final = ("path", "file_name", "filename", "filepath", "file_path", "file", "image", "image_path", "img")
LABEL_COLUMNS: Final = ("class_name", "label_name", "label", "class", "category", "target", "labels", "y")
SPLIT_COLUMN: Final = "split"
_LOOKED_AT: Final = 50  # rows at the beginning that show which column holds paths


def image_root(source: str, options: SourceOptions) -> str:
    """The directory that paths begin in: `--images`, else the table's own. Raises UsageError when there is none."""
    root = options.images if options.images is not None else str(Path(source).resolve().parent)
    if not Path(root).is_dir():
        raise UsageError(f"--images {root} is no directory")
    return os.path.realpath(root)


def read_listed(source: str, catalogue: Catalogue, options: SourceOptions) -> None:
    """Add the images that a table names, in the table's order.

    Missing files, paths out of the directory, rows without a class and rows of a file that was named before are left
    out and counted. Raises UsageError when no column holds paths or the class, when the table has no header, or when
    no file is there.
    """
    table = open_table(source, options.encoding)
    column = _path_column(table, catalogue.root, options.path)
    label = column_of(table.columns, LABEL_COLUMNS, "--label", options.label, table.path)
    column_of(table.columns, (), "--caption", options.caption, table.path)
    if label is None:
        catalogue.notes.append("no column is called label, class, category or the like: no labels are written")
    catalogue.columns = [name for name in table.columns if name != column]
    catalogue.label_in_columns = label is not None
    seen: set[int] = set()
    for row in table.rows():
        if isinstance(row, str):
            catalogue.left_out.add("bad_row", row)
        else:
            _add_row(row, column, label, catalogue, options, seen)
    _refuse_all_missing(catalogue, table, column)


def _add_row(
    row: Row, column: str, label: str | None, catalogue: Catalogue, options: SourceOptions, seen: set[int]
) -> None:
    """Add the image of one row; `seen` has digests of the paths so far."""
    path = text_of(row.pop(column, None))
    split = text_of(row.get(SPLIT_COLUMN))
    class_name = text_of(row.get(label)) if label is not None else None
    if options.split is not None and split != options.split:
        catalogue.left_out.add("other_split", path)
        catalogue.know(class_name)
        return
    if not path or class_name == "":
        catalogue.left_out.add("no_label" if path else "no_path", path or str(row)[:80])
        return
    file = look_up(path, catalogue.root)
    if isinstance(file, str):
        catalogue.left_out.add(file, path)
        return
    # 64 bits take less memory than paths; among 10^6 paths two collide with a chance of 3e-8.
    name = f"{file.folder}/{file.name}".encode("utf-8", "surrogateescape")
    digest = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
    if digest in seen:
        catalogue.left_out.add("repeated_path", path)
        return
    seen.add(digest)
    _add_file(file, row, class_name, split, catalogue)


def _add_file(file: ListedFile, row: Row, class_name: str | None, split: str, catalogue: Catalogue) -> None:
    # The json's own keys: the path is written once, and the split where it is not among the columns.
    columns = {name: value for name, value in row.items() if name != "path"}
    if split:
        columns.pop(SPLIT_COLUMN, None)
    catalogue.add(
        file.folder, file.name, file.size, stamp=file.stamp, label=class_name, split=split, columns=columns or None
    )


def text_of(value: object) -> str:
    """A cell as the text of a path, a class or a split; empty for null, whole numbers without a fraction.

    >>> text_of(3.0), text_of(float("nan")), text_of(" cat "), text_of(b"cat")
    ('3', '', 'cat', 'cat')
    """
    if value is None or isinstance(value, dict | list) or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bytes):  # Parquet of writers that do not say that a column holds text
        return value.decode("utf-8", "backslashreplace").strip()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def column_of(columns: Sequence[str], usual: Collection[str], option: str, given: str | None, path: str) -> str | None:
    """The column that the user names, else the first with a usual name, by lower case; None where there is none.

    Raises UsageError when the table lacks the one that is named.
    """
    if given is not None:
        if given not in columns:
            raise UsageError(f"{option} {given!r}: {path} has no such column, but {', '.join(columns)}")
        return given
    lowered = {name.lower(): name for name in reversed(columns)}
    return next((lowered[name] for name in usual if name in lowered), None)


def _path_column(table: ImageTable, root: str, given: str | None) -> str:
    """The column with paths: the one named, one with a usual name, else the one whose values are files."""
    rows = [row for row in islice(table.rows(), _LOOKED_AT) if isinstance(row, dict)]
    column = column_of(table.columns, PATH_COLUMNS, "--path", given, table.path)
    if column is None:
        _refuse_missing_header(table, root)
        counts = {name: sum(_is_file(row.get(name), root) for row in rows) for name in table.columns}
        column = max(counts, key=counts.__getitem__, default=None)
        if column is None or not counts[column]:
            addresses = (
                name for name in table.columns if rows and all(is_address(text_of(row.get(name))) for row in rows)
            )
            _refuse_addresses(table, next(addresses, None), rows)
            raise UsageError(
                f"{table.path}: no column holds paths of files below {root} (columns: {', '.join(table.columns)}): "
                "name it with --path, and the directory that its paths begin in with --images"
            )
    if rows and all(is_address(text_of(row.get(column))) for row in rows):
        _refuse_addresses(table, column, rows)
    return column


def _refuse_addresses(table: ImageTable, column: str | None, rows: Sequence[Row]) -> None:
    """Raise UsageError for a column that holds addresses; do nothing without one."""
    if column is not None:
        raise UsageError(
            f"{table.path}: the column {column!r} holds addresses ({text_of(rows[0].get(column))[:80]}), no images or"
            " paths: download the images first, and name the column with their paths by --path"
        )


def _is_file(value: object, root: str) -> bool:
    return isinstance(value, str) and bool(value) and isinstance(look_up(value, root), ListedFile)


def _refuse_missing_header(table: ImageTable, root: str) -> None:
    """Raise UsageError when the "column names" are a row: one of them is a file."""
    cell = next((name for name in table.columns if _is_file(name, root)), None)
    if cell is not None:
        raise UsageError(
            f"{table.path} has no header ({cell} in its first line is a file): add one, such as path,label"
        )


def _refuse_all_missing(catalogue: Catalogue, table: ImageTable, column: str) -> None:
    """Raise UsageError, naming one path and the option that mends it, when no row's file is there."""
    if len(catalogue):
        return
    paths = list(_paths(catalogue))
    if paths and is_absolute(paths[0]):
        raise UsageError(
            f"{table.path}: the column {column!r} has absolute paths that are not below {catalogue.root}, such as "
            f"{paths[0]}: give the directory that they are in with --images"
        )
    if paths:
        raise UsageError(
            f"{table.path}: none of the files in the column {column!r} is below {catalogue.root}, such as {paths[0]}: "
            "give the directory that its paths begin in with --images"
        )


def _paths(catalogue: Catalogue) -> Iterator[str]:
    for reason in ("outside", "missing_file"):
        yield from catalogue.left_out.examples.get(reason, [])
