"""Bytes in and out of one directory, local or on any fsspec file system: exclusive creation, hashing, full disks."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from clipaudit.errors import StorageFull, UsageError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

TEMPORARY = ".tmp"
"""Suffix of everything that is written aside; such names are never read, and `clipaudit gc` removes them."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last: a limit on file size, to a user the same
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_READ_THREADS = 16


@contextlib.contextmanager
def storage_errors(path: str) -> Iterator[None]:
    """Turn the operating system's complaints about `path` into StorageFull, or UsageError on permissions."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(
                f"no space left while writing {path}: committed shards are safe, and the same command resumes once"
                " there is room"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS):
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
        if error.errno == errno.ENOTDIR:
            raise UsageError(f"cannot write {path}: a part of this path is a file, not a directory") from error
        raise


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One stored file."""

    path: str
    """Relative to the directory, with forward slashes."""
    bytes: int
    modified: float | None
    """Seconds since the epoch; None where the store does not say."""


class HashingFile(io.RawIOBase):
    """A binary sink that counts and hashes what passes, so that a remote file need not be read back for its hash."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self._hash = hashlib.sha256()
        self._bytes = 0
        self._discarded = False

    def writable(self) -> bool:
        """Always true."""
        return True

    def write(self, data: Buffer) -> int:
        """Hash and pass on a bytes-like object; returns its length in bytes."""
        view = memoryview(data)
        if self._discarded:
            return view.nbytes
        self._hash.update(view)
        self._handle.write(view)
        self._bytes += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        """Bytes written so far."""
        return self._bytes

    def finish(self) -> str:
        """Flush to the disk (local files) or end the upload, close, and return the hex sha256."""
        if not self._handle.closed:
            self._handle.flush()
            if isinstance(self._handle, io.BufferedWriter):
                os.fsync(self._handle.fileno())
            self._handle.close()
        return self._hash.hexdigest()

    def discard(self) -> None:
        """Close without caring whether the last bytes arrive, and swallow what is written from now on.

        An upload is abandoned where the store can do that.
        """
        self._discarded = True
        abandon = getattr(self._handle, "discard", None)
        with contextlib.suppress(OSError):
            if callable(abandon):
                abandon()
            self._handle.close()


class Storage:
    """A directory of files at `url`; every path argument is relative to it, with forward slashes."""

    def __init__(self, url: str) -> None:
        self.url = str(url).rstrip("/") or "/"
        try:
            filesystem, root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise UsageError(f"{self.url} is not a path or URL that can be opened: {error}") from error
        self.fs: fsspec.AbstractFileSystem = filesystem
        self.root = str(root).rstrip("/")

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    @property
    def local(self) -> bool:
        """Whether the directory is on this machine's own file system."""
        return isinstance(self.fs, LocalFileSystem)

    def full(self, path: str = "") -> str:
        """The path as the file system `fs` knows it (for local files, an absolute path)."""
        return f"{self.root}/{path}" if path else self.root

    def make_directories(self, paths: Sequence[str]) -> None:
        """Create directories; those that exist are left alone."""
        for path in paths:
            with storage_errors(self.full(path)):
                try:
                    self.fs.makedirs(self.full(path), exist_ok=True)
                except FileExistsError as error:
                    raise UsageError(f"cannot write {self.full(path)}: there is a file of this name") from error

    def create(self, path: str, data: bytes) -> bool:
        """Write a new file whole or not at all; False when it exists already, whoever made it."""
        target = self.full(path)
        with storage_errors(target):
            if self.local:
                return _create_local(Path(target), data)
            try:
                self.fs.pipe_file(target, data, mode="create")
            except FileExistsError:
                return False
            return True

    def replace(self, path: str, data: bytes) -> None:
        """Write a file, in place of an older one if there is one; a reader sees the old or the new one, never a mix."""
        target = self.full(path)
        with storage_errors(target):
            if not self.local:
                self.fs.pipe_file(target, data)
                return
            aside = _aside(Path(target))
            try:
                _write_synced(aside, data)
                aside.replace(target)
            finally:
                aside.unlink(missing_ok=True)

    def open_new(self, path: str) -> HashingFile:
        """A sink for a file of a name that nobody else uses."""
        target = self.full(path)
        with storage_errors(target):
            if self.local:
                return HashingFile(cast(BinaryIO, Path(target).open("wb")))
            return HashingFile(self.fs.open(target, "wb"))

    def read(self, path: str) -> bytes:
        """The whole content; FileNotFoundError when there is no such file."""
        if self.local:
            return Path(self.full(path)).read_bytes()
        return bytes(self.fs.cat_file(self.full(path)))

    def read_many(self, paths: Sequence[str]) -> Iterator[bytes | None]:
        """The contents in the order of `paths`, read in parallel; None for a file that is not there."""
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            yield from pool.map(self._read_or_none, paths, chunksize=64)

    def _read_or_none(self, path: str) -> bytes | None:
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def exists(self, path: str) -> bool:
        """Whether there is a file or directory of this name."""
        return bool(self.fs.exists(self.full(path)))

    def size(self, path: str) -> int:
        """Bytes; FileNotFoundError when there is no such file."""
        return int(self.fs.size(self.full(path)))

    def names(self, directory: str) -> list[str]:
        """File names in a directory, sorted, without what is being written aside; empty when there is no directory."""
        target = self.full(directory)
        try:
            if self.local:
                found = [entry.name for entry in os.scandir(target)]
            else:
                self.fs.invalidate_cache(target)
                found = [str(name).rstrip("/").rsplit("/", 1)[-1] for name in self.fs.ls(target, detail=False)]
        except FileNotFoundError:
            return []
        return sorted(name for name in found if not name.endswith(TEMPORARY))

    def walk(self) -> list[Entry]:
        """Every file below the directory, those written aside included."""
        self.fs.invalidate_cache(self.root)
        found = self.fs.find(self.root, detail=True)
        prefix = len(self.full("")) + 1
        return [
            Entry(path=str(name)[prefix:], bytes=int(info.get("size") or 0), modified=_modified(info))
            for name, info in sorted(found.items())
        ]

    def remove(self, path: str) -> None:
        """Delete a file; none there is fine."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.full(path))

    def remove_tree(self, path: str) -> None:
        """Delete a directory and what is in it; none there is fine."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm(self.full(path), recursive=True)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}{TEMPORARY}")


def _create_local(target: Path, data: bytes) -> bool:
    aside = _aside(target)
    try:
        _write_synced(aside, data)
        try:
            # a link appears at once and with its content, and fails when the name is taken; rename would overwrite
            os.link(aside, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_without_links(target, data)
    finally:
        aside.unlink(missing_ok=True)
    _sync_directory(target.parent)
    return True


def _create_without_links(target: Path, data: bytes) -> bool:
    try:
        handle = target.open("xb")
    except FileExistsError:
        return False
    try:
        with handle:
            handle.write(data)
    except OSError:
        target.unlink(missing_ok=True)  # this process made it, so nobody else's content is lost
        raise
    return True


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # some network file systems cannot sync a directory; the file's own content is synced already
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _modified(info: dict[str, Any]) -> float | None:
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(name)
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, datetime):
            return value.timestamp()
    return None


def age_seconds(entry: Entry) -> float | None:
    """Seconds since the file was last written, or None where the store does not say."""
    return None if entry.modified is None else max(0.0, time.time() - entry.modified)
