"""Parquet or Arrow with image bytes in a column, as data sets of the hub have them, to a catalogue."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from clipaudit.errors import UsageError
from clipaudit.shards.pack_writer import as_text
from clipaudit.shards.sources.catalogue import Catalogue
from clipaudit.shards.sources.columnar import columnar_files, rows_of, schema_of
from clipaudit.shards.sources.listed_images import LABEL_COLUMNS, SPLIT_COLUMN, column_of, text_of
from clipaudit.shards.sources.options import SourceOptions
from clipaudit.shards.sources.tables import as_json

if TYPE_CHECKING:
    import pyarrow

_BYTES: Final = "images.bin"
"""In the catalogue's `work`: the images' bytes one behind the other, for they are packed in another order."""
_HUB_FILE: Final = re.compile(r"(.+?)-[0-9]+-of-[0-9]+")
_BATCH_ROWS: Final = 64
_NAMES: Final = ("image", "img", "jpg", "jpeg", "png", "picture", "photo", "image_bytes", "bytes")
# How files begin; an extension is made up only for bytes that came without a name.
_SIGNATURES: Final = (
    (b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"RIFF", ".webp"), (b"GIF8", ".gif"), (b"BM", ".bmp"),
    (b"II*\0", ".tif"), (b"MM\0*", ".tif"),
)  # fmt: skip


def image_column(path: str) -> str | None:
    """The column of a Parquet or Arrow file with images: a struct with `bytes`, or binary; None without one.

    Of several the first that is a struct or called `image` or the like, else the first.

    Raises UsageError when the file cannot be read.
    """
    import pyarrow.types

    fields = [field for field in schema_of(path) if _holds_bytes(field.type)]
    # a text may be stored as bytes, too: a struct with bytes is none, nor is a column that is called image
    likely = [field for field in fields if pyarrow.types.is_struct(field.type) or field.name.lower() in _NAMES]
    return next((field.name for field in [*likely, *fields]), None)


def read_parquet_images(source: str, catalogue: Catalogue, options: SourceOptions) -> None:
    """Add the images of Parquet or Arrow files, in the order of their names and rows.

    The split is a column `split`, else the file's name (`train-00000-of-00002.parquet`) or folder. Class numbers get
    their names where the file's metadata has them, as those of the hub do. Rows without image or class are left out
    and counted. Raises UsageError when a column that is named does not exist.
    """
    with ExitStack() as stack:
        try:
            store = stack.enter_context((catalogue.work / _BYTES).open("wb")) if catalogue.work is not None else None
        except OSError as error:
            raise UsageError(f"{catalogue.work} cannot be written: {error.strerror}") from error
        offset = 0
        for path in columnar_files(source):
            offset = _read_file(path, source, catalogue, options, store, offset)


def _read_file(
    path: str, source: str, catalogue: Catalogue, options: SourceOptions, store: BinaryIO | None, offset: int
) -> int:
    """Add the images of one file; `offset` is the length of `store`, and what it has become is returned."""
    image = image_column(path)
    if image is None:
        raise UsageError(f"{path} has no column with image bytes, which other files of {source} have")
    schema = schema_of(path)
    label = column_of(schema.names, LABEL_COLUMNS, "--label", options.label, path)
    column_of(schema.names, (), "--caption", options.caption, path)
    names = _class_names(schema, label)
    catalogue.columns = [name for name in schema.names if name != image]
    catalogue.label_in_columns = label is not None and not names
    file_split = _split_of(path, source)
    for row in rows_of(path, _BATCH_ROWS):
        data, name = _image_of(row.pop(image))
        split = text_of(row.get(SPLIT_COLUMN)) or file_split
        class_name = text_of(row.get(label)) if label is not None else None
        if names and class_name:
            class_name = _name_of(class_name, names, path)
            row.pop(str(label))
        if options.split is not None and split != options.split:
            catalogue.left_out.add("other_split", name)
            catalogue.know(class_name)
        elif data is None or class_name == "":
            catalogue.left_out.add("no_image" if data is None else "no_label", name or Path(path).name)
        else:
            columns = {key: value for key, value in as_json(row).items() if key not in ("path", SPLIT_COLUMN)}
            catalogue.add(
                _BYTES, name, len(data), label=class_name, split=split, columns=columns or None, offset=offset
            )
            offset += len(data)
            if store is not None:
                store.write(data)
    return offset


def _name_of(class_name: str, names: list[str], path: str) -> str:
    """The name of a class number; empty for -1, the hub's mark of an image without a class. UsageError for others."""
    if class_name == "-1":
        return ""
    if not class_name.isdecimal() or int(class_name) >= len(names):
        raise UsageError(f"{path}: the class {class_name} is none of the {len(names)} that its metadata names")
    return names[int(class_name)]


def _image_of(value: object) -> tuple[bytes | None, str]:
    """(bytes, name) of a cell; the name is that of the file, without folders, or an extension alone."""
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    data = data if isinstance(data, bytes) and data else None
    name = as_text(path) if isinstance(path, str) else ""
    if "." in name.lstrip("."):
        return data, name.lstrip("./")
    extension = next((ending for start, ending in _SIGNATURES if data and data.startswith(start)), ".jpg")
    return data, name + extension


def _holds_bytes(kind: pyarrow.DataType) -> bool:
    import pyarrow.types

    if pyarrow.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _class_names(schema: pyarrow.Schema, label: str | None) -> list[str]:
    """The names of class numbers, from the hub's metadata; empty without."""
    try:
        document = json.loads((schema.metadata or {})[b"huggingface"])
        names = document["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _split_of(path: str, source: str) -> str:
    """The split by a file's name, `train-00000-of-00002`, or by its folder below the source; empty without."""
    match = _HUB_FILE.fullmatch(Path(path).stem)
    if match is not None and match.group(1) != "data":  # `data-00000-of-00002.arrow` lies in the folder of its split
        return match.group(1)
    parent = Path(path).parent
    return parent.name if parent != Path(source) and Path(source).is_dir() and parent.name != "data" else ""
