"""Files of columns, Parquet or Arrow, and where a data set of the Hugging Face hub has them; read by pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from clipaudit.errors import UsageError
from clipaudit.shards.sources.folders import SPLITS, is_hidden
from clipaudit.shards.sources.tables import Row, parquet_file, parquet_rows

if TYPE_CHECKING:
    import pyarrow

COLUMNAR: Final = (".parquet", ".arrow")
"""Endings of files of columns: those of the hub, and of the `datasets` library's `save_to_disk`."""


def schema_of(path: str) -> pyarrow.Schema:
    """Columns and metadata of a file; UsageError when it is none of the kind that its name says."""
    if not path.endswith(".arrow"):
        return parquet_file(path).schema_arrow
    import pyarrow.ipc

    try:
        with pyarrow.memory_map(path) as file:
            return pyarrow.ipc.open_stream(file).schema
    except (OSError, pyarrow.ArrowException) as error:
        raise UsageError(f"{path} cannot be read as an Arrow stream: {str(error).splitlines()[0]}") from error


def rows_of(path: str, batch_rows: int) -> Iterator[Row]:
    """The rows of a file as Python values, about `batch_rows` in memory; UsageError when it is damaged."""
    if not path.endswith(".arrow"):
        yield from parquet_rows(path, None, batch_rows)
        return
    import pyarrow.ipc

    try:
        with pyarrow.memory_map(path) as file:
            for batch in pyarrow.ipc.open_stream(file):
                for start in range(0, batch.num_rows, batch_rows):
                    yield from batch.slice(start, batch_rows).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UsageError(f"{path} cannot be read to its end: {str(error).splitlines()[0]}") from error


def columnar_files(source: str) -> list[str]:
    """The files of columns of a directory, or the file itself; sorted.

    Of a directory, those in it, in its folder `data`, and in folders called as splits: others may hold many images.
    Where there are none, those of its one configuration, a folder that is laid out so. UsageError where several are.
    """
    path = Path(source)
    if path.is_file():
        return [source]
    files = _files_in(path)
    if files or (path / "annotations").is_dir():
        return files
    folders = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and not is_hidden(folder.name)]
    # A data set has few configurations, and class folders are many: those are not searched.
    configurations = [(folder, files) for folder in folders[:_CONFIGURATIONS] if (files := _files_in(folder))]
    if len(configurations) > 1:
        names = ", ".join(folder.name for folder, _ in configurations[:5])
        raise UsageError(f"{source} has several configurations ({names}): give one of these folders as the source")
    return configurations[0][1] if configurations else []


_CONFIGURATIONS: Final = 32


def _files_in(path: Path) -> list[str]:
    folders = [path, *(folder for folder in path.iterdir() if folder.name.lower() in SPLITS | {"data"})]
    return sorted(str(file) for folder in folders for ending in COLUMNAR for file in folder.glob(f"*{ending}"))
