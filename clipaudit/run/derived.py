"""Derived directories of a run (indexes, reports, heads, ablations): written aside, hashed, put in place, read back."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipaudit.errors import IntegrityError, UsageError
from clipaudit.run.checksums import SUMS, file_sha256, sums_text, write_sums
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.run.records import StoredFile
from clipaudit.storage.directory import Storage
from clipaudit.storage.faults import storage_errors
from clipaudit.storage.local import require_regular

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def publish(run: Run, directory: str, files: Mapping[str, Any], out: str | None = None) -> str:
    """Write files (bytes as they are, text as UTF-8, all else as JSON) into a directory of the run; returns its URL.

    Results of an earlier state of the run (`RUN@2`) go beside those of the newest one: `heads@2`. An older directory
    of that name is replaced as a whole, and `SHA256SUMS` is written beside the files. With `out`, a path or URL, the
    files go there instead, each replaced at once, and other files there stay. UsageError when writing is not allowed,
    StorageFull when there is no space left.
    """
    contents = {name: _bytes(content) for name, content in files.items()}
    if out is not None:
        storage = Storage(out)
        storage.make_directories([""])
        for name, content in contents.items():
            storage.replace(name, content)
        return storage.url
    contents[SUMS] = sums_text({name: hashlib.sha256(content).hexdigest() for name, content in contents.items()})
    directory, storage = run.folder(directory), run.directory.storage
    with storage_errors(storage.full(directory)), run.directory.publish(directory) as aside:
        for name, content in contents.items():
            storage.replace(storage.relative(f"{aside}/{name}"), content)
    return f"{run.directory.url}/{directory}"


def _bytes(content: object) -> bytes:
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode()
    return json.dumps(finite(content), indent=1, ensure_ascii=False, default=str).encode()


def finite(value: object) -> object:
    """JSON values with null for numbers that are not finite, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def require_writable(run_dir: RunDirectory, directory: str) -> None:
    """UsageError when a directory below `run_dir` cannot be written to; call it before long work.

    Of a remote store this is known only once something is written.
    """
    if not run_dir.storage.local:
        return
    path = Path(run_dir.storage.full(directory))
    existing = next(place for place in (path, *path.parents) if place.exists())
    why = "is read-only" if existing.is_dir() else "is a file"
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"{path} cannot be written: {existing} {why}; give another directory with --out")


@contextlib.contextmanager
def published(run_dir: RunDirectory, directory: str) -> Iterator[Path]:
    """A local directory to write plain files into; they become the run's `directory` when the block ends well.

    `SHA256SUMS` is written beside them, unless the block has done so (`checksums.write_sums`). Raises as
    `RunDirectory.publish`.
    """
    if run_dir.storage.local:
        with run_dir.publish(directory) as aside:
            yield Path(aside)
            _seal(Path(aside))
        return
    with tempfile.TemporaryDirectory(prefix="clipaudit-") as scratch:
        yield Path(scratch)
        _seal(Path(scratch))
        with run_dir.publish(directory) as aside:
            for path in sorted(Path(scratch).iterdir()):
                run_dir.storage.put(str(path), run_dir.storage.relative(f"{aside}/{path.name}"))


def _seal(folder: Path) -> None:
    if not (folder / SUMS).exists():
        write_sums(folder)


def stored(path: Path) -> StoredFile:
    """Make a file durable; returns its size and hash."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return StoredFile(bytes=path.stat().st_size, sha256=file_sha256(path))


class LocalFiles:
    """A run's derived files as local ones: themselves, or copies in a directory that is removed with this object."""

    def __init__(self, run_dir: RunDirectory) -> None:
        self._run_dir = run_dir
        self._scratch: str | None = None

    def directory(self, directory: str, files: Mapping[str, StoredFile], *, verify: bool = True) -> Path:
        """The local path of one of the run's directories, which holds `files` as they were recorded.

        IntegrityError names the file that is missing, cut or altered, or a name that is no plain file name; without
        `verify` contents are not hashed.
        """
        storage = self._run_dir.storage
        foreign = [name for name in files if _FILE_NAME.fullmatch(name) is None]
        if foreign:  # a run from elsewhere must not make this process read or write outside of it
            raise IntegrityError(f"{storage.full(directory)} is damaged: {foreign[0]!r} is no file of it")
        local = Path(storage.full(directory)) if storage.local else self._copied(directory, files)
        for name, expected in files.items():
            path, full = local / name, storage.full(f"{directory}/{name}")
            try:
                size = path.stat().st_size
            except FileNotFoundError as error:
                raise IntegrityError(f"{full} is not there: build the index again") from error
            if size != expected.bytes:
                raise IntegrityError(
                    f"{full} has {size} bytes where {expected.bytes} were written: build the index again"
                )
            require_regular(path)  # indexes are mapped into memory by name
            if verify and file_sha256(path) != expected.sha256:
                raise IntegrityError(f"{full} is not what was written (its hash differs): build the index again")
        return local

    def _copied(self, directory: str, files: Mapping[str, StoredFile]) -> Path:
        if self._scratch is None:
            self._scratch = tempfile.mkdtemp(prefix="clipaudit-")
            weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        copies = Path(self._scratch, directory.replace("/", "_"))
        if not copies.exists():
            copies.mkdir()
            for name in files:
                with contextlib.suppress(FileNotFoundError):  # named by `directory`
                    self._run_dir.storage.fetch(f"{directory}/{name}", str(copies / name))
        return copies
