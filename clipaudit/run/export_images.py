"""Exports with the image files themselves: folders by class, and samples as FiftyOne reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv

from clipaudit.errors import ShardError, ShardUnreadable, UsageError
from clipaudit.run.export_rows import CLASS, ExportRows
from clipaudit.run.export_tables import lists_as_json, write_arrays

_MAGIC: Final = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp"}
_MAX_NAME: Final = 150
"""Characters of a key in a file's name; file systems allow 255 bytes."""
_RESERVED: Final = ("id", "filepath", "tags", "metadata", "ground_truth", "created_at", "last_modified_at", "key")
_PLACE: Final = ("shard_id", "index_in_shard")
_OWN: Final = ("shard_id", "index", "key", "status", "label", "offset", "nbytes", "phash", "width", "height", CLASS)


def write_images(rows: ExportRows, directory: Path, dtype: np.dtype[Any]) -> None:
    """`images/CLASS/SHARD-INDEX-KEY.jpg`, the files' own bytes, and `images.csv` with a line for each.

    Where images may have several labels they lie together in `images/`.

    UsageError names the first image that cannot be read.
    """
    fields = [pa.field("file", pa.string()), *lists_as_json(rows.schema().empty_table()).schema]
    images, folders_of = directory / "images", _Names()
    with pa.csv.CSVWriter(directory / "images.csv", pa.schema(fields)) as writer:
        for table, stored in rows.batches():
            classes = _classes(rows, table, stored)
            labels = _labels(stored)
            folders = [
                images if isinstance(name, list) else images / folders_of.name(label, _file_name(name))
                for name, label in zip(classes, labels, strict=True)
            ]
            paths = [
                _write(folder, row, data).relative_to(directory)
                for folder, (row, data) in zip(folders, _files(rows, stored), strict=True)
            ]
            arrays = [pa.array([path.as_posix() for path in paths]), *lists_as_json(table).columns]
            writer.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)))


def write_fiftyone(rows: ExportRows, directory: Path, dtype: np.dtype[Any]) -> None:
    """`data/` with the image files, `samples.json` with a dictionary of each as `fiftyone.Sample.from_dict` reads it,
    and `<column>.npy` for each vector column, in the order of the samples.

    UsageError names the first image that cannot be read.
    """
    fields = _Names()
    with (directory / "samples.json").open("w", encoding="utf-8") as sink:
        sink.write('{"samples": [')
        separator = "\n"
        for table, stored in rows.batches():
            classes = _classes(rows, table, stored)
            values = table.to_pylist()
            for name, plain, (row, data) in zip(classes, values, _files(rows, stored), strict=True):
                path = _write(directory / "data", row, data).relative_to(directory).as_posix()
                sample = _sample(path, name if plain.get("label", name) is not None else None, plain, fields)
                sink.write(separator + json.dumps(sample, ensure_ascii=False))
                separator = ",\n"
        sink.write("\n]}\n")
    write_arrays(rows, directory, dtype, rows_file=None)


def _field_name(name: str) -> str:
    """As FiftyOne stores it in MongoDB, whose names have neither dots nor spaces, and not as its own fields."""
    plain = re.sub(r"\W+", "_", name)
    return f"attribute_{plain}" if plain in (*_RESERVED, *_PLACE) else plain


def _sample(path: str, label: str | list[str] | None, plain: dict[str, Any], names: _Names) -> dict[str, Any]:
    """A sample in FiftyOne's serialised form; its own fields keep their names, and `ground_truth` is the class.

    Several labels are `Classifications`, an empty list one without any.
    """
    fields = {name: value for name, value in plain.items() if name not in _OWN and value is not None}
    where = {"shard_id": plain.get("shard_id"), "index_in_shard": plain.get("index"), "key": plain.get("key")}
    truth: dict[str, Any] | None = None if label is None else {"_cls": "Classification", "label": label}
    if isinstance(label, list):
        several = [{"_cls": "Classification", "label": name} for name in label]
        truth = {"_cls": "Classifications", "classifications": several}
    size = {"_cls": "ImageMetadata", "width": plain.get("width"), "height": plain.get("height")}
    named = {names.name(name, _field_name(name)): value for name, value in fields.items()}
    return {
        "_media_type": "image",
        "filepath": path,
        "tags": [],
        "metadata": size,
        "ground_truth": truth,
        **where,
        **named,
    }


def _classes(rows: ExportRows, table: pa.Table, stored: pa.RecordBatch) -> list[str | list[str]]:
    """What each row's class is called: its name, else its label, else `unlabelled`; of several labels a list."""
    labels = _labels(stored)
    names = table[CLASS].to_pylist() if CLASS in table.column_names else [None] * len(labels)
    if rows.run.spec.multi_label:
        lists = zip(names, labels, strict=True)
        return [several or [str(label) for label in given or ()] for several, given in lists]
    return [name or ("unlabelled" if label is None else str(label)) for name, label in zip(names, labels, strict=True)]


def _labels(stored: pa.RecordBatch) -> list[Any]:
    return stored["label"].to_pylist() if "label" in stored.schema.names else [None] * stored.num_rows


class _Names:
    """A name of its own for each of several things that would have one, also where case makes no difference."""

    def __init__(self) -> None:
        self._given: dict[object, str] = {}
        self._taken: set[str] = set()

    def name(self, thing: object, wanted: str) -> str:
        """`cat`, and `cat_2` for the next thing that would be called so."""
        if thing not in self._given:
            name, number = wanted, 1
            while name.casefold() in self._taken:
                number += 1
                name = f"{wanted}_{number}"
            self._taken.add(name.casefold())
            self._given[thing] = name
        return self._given[thing]


def _files(rows: ExportRows, stored: pa.RecordBatch) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(place, bytes) of each row's image file."""
    for row in stored.select(["shard_id", "index", "key", "offset", "nbytes"]).to_pylist():
        try:
            data = rows.images.read(row["shard_id"], row["offset"], row["nbytes"])
            if len(data) < row["nbytes"]:
                raise ShardUnreadable("the shard was cut while it was read")
            yield row, data
        except ShardError as error:
            raise UsageError(f"the image {row['shard_id']}/{row['key']} cannot be exported: {error}") from error


def _write(directory: Path, row: dict[str, Any], data: bytes) -> Path:
    """Write an image file under a name that no other has; returns its path."""
    kind = next((extension for magic, extension in _MAGIC.items() if data.startswith(magic)), "bin")
    name = f"{row['shard_id']:06d}-{row['index']:06d}-{_file_name(row['key'])}.{kind}"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_bytes(data)
    return path


def _file_name(text: str) -> str:
    """A text as one part of a path on any system."""
    plain = re.sub(r"[^\w ,()+=-]+", "_", text).strip(" ._") or "_"
    return plain.encode()[:_MAX_NAME].decode(errors="ignore")
