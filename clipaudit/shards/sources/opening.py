"""Which kind of source a path is, and its catalogue."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from clipaudit.errors import UsageError
from clipaudit.shards.pack_writer import RECORD
from clipaudit.shards.sources.catalogue import Catalogue
from clipaudit.shards.sources.coco import coco_document, coco_root, read_coco
from clipaudit.shards.sources.columnar import COLUMNAR, columnar_files
from clipaudit.shards.sources.folders import is_hidden, is_image, read_folders
from clipaudit.shards.sources.listed_images import image_root, read_listed
from clipaudit.shards.sources.options import SourceOptions
from clipaudit.shards.sources.parquet_images import image_column, read_parquet_images
from clipaudit.shards.sources.tables import is_table
from clipaudit.shards.sources.tars import is_tar, read_tars

_ARCHIVES: Final = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar")
_HUB_NAMES: Final = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def open_source(source: str, options: SourceOptions, work: Path | None) -> Catalogue:
    """The images of a source. `work` as for Catalogue. Raises UsageError, one sentence, when it is not understood."""
    name = source.lower()
    if Path(source).is_dir():
        catalogue = _open_directory(source, options, work)
    elif name.endswith(COLUMNAR) and image_column(source) is not None:
        catalogue = _open_parquet_images(source, options, work)
    elif is_table(name):
        catalogue = _open_table(source, options, work)
    elif name.endswith(".json"):
        document = coco_document(source)
        with Catalogue(coco_root(source, document, options), f"COCO json {Path(source).name}", work) as catalogue:
            read_coco(source, document, catalogue, options)
    elif is_tar(name):
        catalogue = _open_tars(source, options, work)
    elif name.endswith(_ARCHIVES):
        raise UsageError(f"{source} is compressed: unpack it, and give the directory or the plain .tar")
    else:
        raise UsageError(f"{source} is no directory, CSV, TSV, JSONL, Parquet with images, COCO json or tar")
    if options.caption is not None:
        if options.caption not in catalogue.columns and len(catalogue):
            columns = ", ".join(catalogue.columns) or "none"
            raise UsageError(f"--caption {options.caption!r}: {source} has no such column, but {columns}")
        catalogue.caption = options.caption
    catalogue.finish()
    return catalogue


def _open_directory(source: str, options: SourceOptions, work: Path | None) -> Catalogue:
    """Class folders, or images in one folder with a table beside them.

    Raises UsageError when there are several tables, or annotations of COCO: it is not known which one is meant.
    """
    names, tables, images, folders = _top(source)
    if not images and not tables and any(map(is_tar, names)):
        return _open_tars(source, options, work)
    parquets = columnar_files(source) if not images else []
    if parquets and image_column(parquets[0]) is not None:
        return _open_parquet_images(source, options, work)
    hub = [name for name in _HUB_NAMES if name in tables]
    table = hub[0] if hub else tables[0] if len(tables) == 1 else None
    asked = options.path is not None or options.label is not None or options.images is not None
    if len(tables) > 1 and table is None and (images or asked):
        raise UsageError(f"{source} has several tables ({', '.join(tables[:5])}): give one of them as the source")
    # Images at the top, or all of them in one folder, have no class by their place.
    if table is not None and (hub or images or asked or len(folders) == 1):
        return _open_table(str(Path(source) / table), options, work)
    jsons = sorted(Path(source).glob("annotations/*.json")) if not images else []
    if jsons:
        several = f" (there are {len(jsons)})" if len(jsons) > 1 else ""
        raise UsageError(f"{source} has annotations as COCO has them: give the json as the source, {jsons[0]}{several}")
    with Catalogue(os.path.realpath(source), "class folders" if folders else "a folder of images", work) as catalogue:
        read_folders(source, catalogue, options)
    if tables:
        catalogue.notes.append(f"{', '.join(tables[:3])} is not used: give the table as the source to have its columns")
    return catalogue


def _open_table(source: str, options: SourceOptions, work: Path | None) -> Catalogue:
    with Catalogue(image_root(source, options), f"images listed in {Path(source).name}", work) as catalogue:
        read_listed(source, catalogue, options)
    return catalogue


def _open_parquet_images(source: str, options: SourceOptions, work: Path | None) -> Catalogue:
    with Catalogue(str(Path(source).parent), "Parquet with image bytes", work) as catalogue:
        read_parquet_images(source, catalogue, options)
    return catalogue


def _open_tars(source: str, options: SourceOptions, work: Path | None) -> Catalogue:
    with Catalogue(str(Path(source).parent), "tars", work) as catalogue:
        read_tars(source, catalogue, options)
    return catalogue


def _top(source: str) -> tuple[list[str], list[str], bool, list[str]]:
    """What lies in a directory: files, tables, whether there are images, folders."""
    try:
        with os.scandir(source) as entries:
            kinds = sorted((entry.name, entry.is_dir()) for entry in entries if not is_hidden(entry.name))
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}") from error
    files = [name for name, directory in kinds if not directory]
    tables = [name for name in files if is_table(name) and name != RECORD]
    folders = [name for name, directory in kinds if directory]
    return files, tables, any(map(is_image, files)), folders
