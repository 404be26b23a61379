"""Bytes in and out of one directory, local or on any fsspec file system: exclusive creation, hashing, full disks."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from clipaudit.errors import StorageFull, UsageError
from clipaudit.redact import public_url
from clipaudit.storage.local import TEMPORARY as TEMPORARY
from clipaudit.storage.local import create_file, replace_file
from clipaudit.storage.remote import (
    OBJECT_STORES,
    PatientFile,
    open_filesystem,
    protocols_of,
    reason,
    remote_errors,
    retried,
    taken,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last: a limit on file size, to a user the same
_READ_THREADS = 16
_OPEN_FILES = Path("/proc/self/fd")  # where Linux has names for files that are open and have no other
_T = TypeVar("_T")


@contextlib.contextmanager
def storage_errors(path: str) -> Iterator[None]:
    """Turn the file system's complaints about `path` into StorageFull, or UsageError on permissions."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
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
        if isinstance(error, PermissionError) or error.__cause__ is not None:  # a store's answer, not the disk's
            raise UsageError(f"cannot use {path}: {reason(error)}") from error
        raise
    except remote_errors() as error:
        raise UsageError(f"cannot use {path}: {reason(error)}") from error


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

    def __init__(self, path: Path, upload: Callable[[str], None] | None = None) -> None:
        """Writes the local file `path`; with `upload` it is given over once it is complete, and deleted."""
        self._path, self._upload = path, upload
        self._handle = path.open("wb")
        self._nameless = upload is not None and _OPEN_FILES.is_dir()
        if self._nameless:
            path.unlink()  # so that a process that is killed leaves nothing behind
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
        with storage_errors(str(self._path)):  # the disk behind TMPDIR may be full, not the store
            self._handle.write(view)
        self._bytes += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        """Bytes written so far."""
        return self._bytes

    def finish(self) -> str:
        """Flush to the disk (local files) or upload, close, and return the hex sha256."""
        if not self._handle.closed:
            self._handle.flush()
            if self._upload is None:
                os.fsync(self._handle.fileno())
            else:
                self._upload(str(_OPEN_FILES / str(self._handle.fileno()) if self._nameless else self._path))
            self._close()
        return self._hash.hexdigest()

    def discard(self) -> None:
        """Close without caring whether the last bytes arrive, and swallow what is written from now on."""
        self._discarded = True
        with contextlib.suppress(OSError):
            self._close()

    def _close(self) -> None:
        self._handle.close()
        if self._upload is not None and not self._nameless:
            self._path.unlink(missing_ok=True)


class Storage:
    """A directory of files at `url`; every path argument is relative to it, with forward slashes."""

    def __init__(self, url: str) -> None:
        self.url = public_url(str(url).rstrip("/") or "/")
        try:
            self.fs, root = open_filesystem(self.url)
        except (ValueError, ImportError) as error:
            raise UsageError(f"{self.url} is not a path or URL that can be opened: {error}") from error
        self.root = root.rstrip("/")

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    @property
    def local(self) -> bool:
        """Whether the directory is on this machine's own file system."""
        return isinstance(self.fs, LocalFileSystem)

    def full(self, path: str = "") -> str:
        """The path as the file system `fs` knows it (for local files, an absolute path)."""
        return f"{self.root}/{path}" if path else self.root

    @property
    def has_directories(self) -> bool:
        """Whether directories exist by themselves; in an object store every name is a key."""
        return not OBJECT_STORES.intersection(protocols_of(self.fs))

    @cached_property
    def exclusive(self) -> bool:
        """Whether the store refuses to create a file that is there: found out by trying, before the first `create`.

        S3 (`If-None-Match`), GCS (`ifGenerationMatch`) and local disks do. A store that ignores the condition would
        overwrite in silence, and one that does not know it fails: both count as not exclusive. So does a file system
        for which fsspec looks first and then writes, which is not one step.
        """
        if self.local:
            return True
        if getattr(self.fs.pipe_file, "__func__", None) is AbstractFileSystem.pipe_file:
            return False
        name = f".probe-{uuid.uuid4().hex[:12]}{TEMPORARY}"
        probe = self.full(name)
        self.replace(name, b"1")
        try:
            try:
                retried(lambda: self.fs.pipe_file(probe, b"2", mode="create"), probe)
            except remote_errors() as error:
                return taken(error)
            except (TypeError, ValueError, NotImplementedError):
                return False
            return False
        finally:
            with contextlib.suppress(*remote_errors()):
                self.fs.rm_file(probe)

    def _remote(self, full: str, call: Callable[[], _T]) -> _T:
        """A request that may be repeated, with the store's errors as ours; FileNotFoundError and its like stay."""
        with storage_errors(full):
            return call() if self.local else retried(call, full)

    def relative(self, full: str) -> str:
        """A path as the file system knows it, made relative to this directory."""
        return full[len(self.full("")) + 1 :]

    def make_directories(self, paths: Sequence[str]) -> None:
        """Create directories; those that exist are left alone. Nothing to do in an object store."""
        for path in paths if self.has_directories else ():
            with storage_errors(self.full(path)):
                try:
                    self.fs.makedirs(self.full(path), exist_ok=True)
                except FileExistsError as error:
                    raise UsageError(f"cannot write {self.full(path)}: there is a file of this name") from error

    def create(self, path: str, data: bytes) -> bool:
        """Write a new file whole or not at all; False when it exists already, whoever made it.

        False too when this call made it and the store's answer was lost: who must know compares the content. On a
        store that is not `exclusive`, of two callers at the same instant both may see True and the later one's stays.
        """
        target = self.full(path)
        if self.local:
            with storage_errors(target):
                return create_file(Path(target), data)
        if not self.exclusive:
            if self.exists(path):
                return False
            self.replace(path, data)
            return True
        try:
            self._create(target, data)
        except FileExistsError:
            return False
        return True

    def _create(self, target: str, data: bytes) -> None:
        def once() -> None:
            try:
                self.fs.pipe_file(target, data, mode="create")
            except remote_errors() as error:
                if taken(error):
                    raise FileExistsError(target) from None
                raise

        try:
            self._remote(target, once)
        except FileNotFoundError as error:
            raise UsageError(f"cannot write {target}: {reason(error)}") from error

    def replace(self, path: str, data: bytes) -> None:
        """Write a file, in place of an older one if there is one; a reader sees the old or the new one, never a mix."""
        target = self.full(path)
        if not self.local:
            self._upload(target, lambda: self.fs.pipe_file(target, data))
            return
        with storage_errors(target):
            replace_file(Path(target), data)

    def put(self, file: str, path: str) -> None:
        """Copy a local file here, in place of an older one; a failed upload begins again at its first byte."""
        target = self.full(path)
        self._upload(target, lambda: self.fs.put_file(file, target))

    def fetch(self, path: str, file: str) -> None:
        """Copy a file from here to a local one; FileNotFoundError when there is no such file."""
        target = self.full(path)
        self._remote(target, lambda: self.fs.get_file(target, file))

    def _upload(self, target: str, call: Callable[[], object]) -> None:
        try:
            self._remote(target, call)
        except FileNotFoundError as error:
            raise UsageError(f"cannot write {target}: {reason(error)}") from error

    def open_new(self, path: str) -> HashingFile:
        """A sink for a file of a name that nobody else uses.

        A remote file is gathered in a local temporary file and uploaded by `finish`, so that an upload that breaks can
        begin again.
        """
        target = self.full(path)
        with storage_errors(target):
            if self.local:
                return HashingFile(Path(target))
            descriptor, aside = tempfile.mkstemp(prefix="clipaudit-", suffix=TEMPORARY)  # for this user's eyes only
            os.close(descriptor)
            return HashingFile(Path(aside), lambda name: self.put(name, path))

    def open(self, path: str) -> BinaryIO:
        """A file for reading from any place; FileNotFoundError when there is no such file."""
        target = self.full(path)
        if self.local:
            return Path(target).open("rb")
        # cast: mypy knows no file system's own files
        handle = self._remote(target, lambda: cast(BinaryIO, self.fs.open(target, "rb")))
        return cast(BinaryIO, PatientFile(handle, target))

    def read(self, path: str) -> bytes:
        """The whole content; FileNotFoundError when there is no such file."""
        target = self.full(path)
        if self.local:
            return Path(target).read_bytes()
        return self._remote(target, lambda: bytes(self.fs.cat_file(target)))

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
        target = self.full(path)
        if self.local:
            with storage_errors(target):
                return Path(target).exists()
        try:
            self._remote(target, lambda: self.fs.info(target))  # fsspec's own exists() takes any trouble for a no
        except FileNotFoundError:
            return False
        return True

    def size(self, path: str) -> int:
        """Bytes; FileNotFoundError when there is no such file."""
        target = self.full(path)
        return self._remote(target, lambda: int(self.fs.size(target)))

    def names(self, directory: str) -> list[str]:
        """File names in a directory, sorted, without what is being written aside; empty when there is no directory."""
        target = self.full(directory)
        try:
            if self.local:
                found = [entry.name for entry in os.scandir(target)]
            else:
                self.fs.invalidate_cache(target)
                listed = self._remote(target, lambda: self.fs.ls(target, detail=False))
                found = [str(name).rstrip("/").rsplit("/", 1)[-1] for name in listed]
        except FileNotFoundError:
            return []
        return sorted(name for name in found if not name.endswith(TEMPORARY))

    def walk(self) -> list[Entry]:
        """Every file below the directory, those written aside included; what links point to is not below it."""
        self.fs.invalidate_cache(self.root)
        found = self._remote(self.root, lambda: self.fs.find(self.root, detail=True))
        return [
            Entry(path=self.relative(str(name)), bytes=int(info.get("size") or 0), modified=_modified(info))
            for name, info in sorted(found.items())
        ]

    def remove(self, path: str) -> None:
        """Delete a file; none there is fine."""
        target = self.full(path)
        with contextlib.suppress(FileNotFoundError):
            self._remote(target, lambda: self.fs.rm_file(target))

    def remove_tree(self, path: str) -> None:
        """Delete a directory and what is in it; none there is fine."""
        target = self.full(path)
        with contextlib.suppress(FileNotFoundError):
            self._remote(target, lambda: self.fs.rm(target, recursive=True))

    def move_tree(self, path: str, to: str) -> None:
        """Copy a directory of an object store to another name and delete it; files of one name are replaced."""
        source, target = self.full(path), self.full(to)
        for name in self._remote(source, lambda: self.fs.find(source)):
            place = target + str(name)[len(source) :]
            self._remote(place, lambda name=name, place=place: self.fs.cp_file(name, place))  # type: ignore[misc]
        self.remove_tree(path)


def _modified(info: dict[str, Any]) -> float | None:
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(name)
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, datetime):
            return value.timestamp()
    return None
