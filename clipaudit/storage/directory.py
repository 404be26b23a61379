"""Files in one directory, local or on any fsspec file system: exclusive creation, hashing, full disks as errors."""

from __future__ import annotations

import contextlib
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

from clipaudit.errors import UsageError
from clipaudit.redact import public_url
from clipaudit.storage.faults import making, storage_errors
from clipaudit.storage.local import TEMPORARY, create_file, open_regular, read_files, read_regular, replace_file
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

_READ_THREADS = 16
_OPEN_FILES = Path("/proc/self/fd")  # on Linux: names of open files, also of those that have been unlinked
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One stored file."""

    path: str
    """Relative to the directory, with forward slashes."""
    bytes: int
    """Size of the file."""
    modified: float | None
    """Seconds since 1970 (UTC); None where the store does not tell."""
    regular: bool = True
    """Whether it is a file or a link, and no FIFO, socket or device; object stores have none of these."""


class HashingFile(io.RawIOBase):
    """A file for writing that counts and hashes its bytes, so that a remote one need not be read for its hash."""

    def __init__(self, path: Path, upload: Callable[[str], None] | None = None) -> None:
        """Write the local file `path`; with `upload` it is temporary, and `upload(its path)` is called at the end."""
        self._path, self._upload = path, upload
        self._handle = path.open("wb")
        self._nameless = upload is not None and _OPEN_FILES.is_dir()
        if self._nameless:
            path.unlink()  # without a name it is gone even when this process is killed
        self._hash = hashlib.sha256()
        self._bytes = 0
        self._discarded = False

    def writable(self) -> bool:
        """Always true."""
        return True

    def write(self, data: Buffer) -> int:
        """Write and hash a bytes-like object; returns its length in bytes. Raises StorageFull."""
        view = memoryview(data)
        if self._discarded:
            return view.nbytes
        self._hash.update(view)
        with storage_errors(str(self._path)):  # the full disk may be that of TMPDIR
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
        """Close the file without an upload; what is written from now on is ignored."""
        self._discarded = True
        with contextlib.suppress(OSError):
            self._close()

    def _close(self) -> None:
        self._handle.close()
        if self._upload is not None and not self._nameless:
            self._path.unlink(missing_ok=True)


class Storage:
    """A directory of files, local or on any fsspec file system. Path arguments are relative to it, with `/`.

    Methods that write raise StorageFull when there is no space, UsageError when they may not write; those that ask a
    remote store raise StoreUnavailable when it fails at every retry.
    """

    def __init__(self, url: str) -> None:
        """Open the directory at a path or URL; it need not exist. Raises UsageError for a URL of an unknown kind."""
        if not str(url):
            raise UsageError("an empty text names no directory: give a path or a URL")
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
        """The path as the file system `fs` takes it (for local files, an absolute path)."""
        return f"{self.root}/{path}" if path else self.root

    @property
    def has_directories(self) -> bool:
        """Whether directories exist apart from their files; an object store has keys only."""
        return not OBJECT_STORES.intersection(protocols_of(self.fs))

    @cached_property
    def exclusive(self) -> bool:
        """Whether the store refuses to create a file that exists: tried out with a probe before the first `create`.

        S3 (`If-None-Match`), GCS (`ifGenerationMatch`) and local disks do. A store that ignores the condition
        overwrites the file, and one that does not know it answers with an error: both count as not exclusive.
        """
        if self.local:
            return True
        # fsspec's own implementation looks whether the file exists and then writes: two steps, between which another
        # process may create the file.
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
        """A request that may be repeated, with the store's errors turned into ours by `storage_errors`."""
        with storage_errors(full):
            return call() if self.local else retried(call, full)

    def relative(self, full: str) -> str:
        """The inverse of `full`: a path of the file system, made relative to this directory."""
        return full[len(self.full("")) + 1 :]

    def make_directories(self, paths: Sequence[str]) -> None:
        """Create directories that do not exist; does nothing in an object store."""
        for path in paths if self.has_directories else ():
            with making(self.full(path)):
                self.fs.makedirs(self.full(path), exist_ok=True)

    def create(self, path: str, data: bytes) -> bool:
        """Write a new file whole or not at all; False when one of this name exists already.

        Also False when this call made it, the store's answer was lost and the request was repeated; a caller that must
        tell these apart compares the content. On a store that is not `exclusive` two callers at the same instant may
        both get True; then the file of the later one remains.
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
        """Write a file, replacing an older one if it exists; a reader sees the old or the new content, never a mix."""
        target = self.full(path)
        if not self.local:
            self._upload(target, lambda: self.fs.pipe_file(target, data))
            return
        with making(target):
            replace_file(Path(target), data)

    def put(self, file: str, path: str) -> None:
        """Copy a local file here, replacing an older one; a failed upload starts again at its first byte."""
        target = self.full(path)
        self._upload(target, lambda: self.fs.put_file(file, target))

    def fetch(self, path: str, file: str) -> None:
        """Copy a file from here to a local one. Raises FileNotFoundError."""
        target = self.full(path)
        self._remote(target, lambda: self.fs.get_file(target, file))

    def _upload(self, target: str, call: Callable[[], object]) -> None:
        try:
            self._remote(target, call)
        except FileNotFoundError as error:
            raise UsageError(f"cannot write {target}: {reason(error)}") from error

    def open_new(self, path: str) -> HashingFile:
        """A new file for writing, of a name that no other process uses.

        A remote file is collected in a local temporary file and uploaded by `finish`, so that an upload that breaks can
        start again.
        """
        target = self.full(path)
        with storage_errors(target):
            if self.local:
                return HashingFile(Path(target))
            descriptor, aside = tempfile.mkstemp(prefix="clipaudit-", suffix=TEMPORARY)  # readable by this user only
            os.close(descriptor)
            return HashingFile(Path(aside), lambda name: self.put(name, path))

    def open(self, path: str) -> BinaryIO:
        """A seekable file for reading. Raises FileNotFoundError, and IntegrityError for what is no regular file."""
        target = self.full(path)
        if self.local:
            return open_regular(Path(target))
        handle = self._remote(target, lambda: cast(BinaryIO, self.fs.open(target, "rb")))
        return cast(BinaryIO, PatientFile(handle, target))

    def read(self, path: str) -> bytes:
        """The whole content. Raises FileNotFoundError, and IntegrityError for what is no regular file."""
        target = self.full(path)
        if self.local:
            return read_regular(target)
        return self._remote(target, lambda: bytes(self.fs.cat_file(target)))

    def read_many(self, paths: Sequence[str]) -> Iterator[bytes | None]:
        """The contents in the order of `paths`; None for a file that does not exist."""
        if self.local:
            yield from read_files([self.full(path) for path in paths], _READ_THREADS)
            return
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            yield from pool.map(self._read_or_none, paths, chunksize=64)

    def _read_or_none(self, path: str) -> bytes | None:
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def exists(self, path: str) -> bool:
        """Whether a file or directory of this name exists."""
        target = self.full(path)
        if self.local:
            with storage_errors(target):
                return Path(target).exists()
        try:
            self._remote(target, lambda: self.fs.info(target))  # fsspec's exists() takes every error for a no
        except FileNotFoundError:
            return False
        return True

    def size(self, path: str) -> int:
        """Bytes of a file. Raises FileNotFoundError."""
        target = self.full(path)
        return self._remote(target, lambda: int(self.fs.size(target)))

    def names(self, directory: str) -> list[str]:
        """File names in a directory, sorted, without temporary files; empty when there is no such directory."""
        target = self.full(directory)
        try:
            if self.local:
                names = [entry.name for entry in os.scandir(target)]
            else:
                self.fs.invalidate_cache(target)
                paths = self._remote(target, lambda: self.fs.ls(target, detail=False))
                names = [str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if not name.endswith(TEMPORARY))

    def walk(self) -> list[Entry]:
        """Every file below the directory, sorted by path, temporary ones included; links are not followed."""
        self.fs.invalidate_cache(self.root)
        infos = self._remote(self.root, lambda: self.fs.find(self.root, detail=True))
        return [
            Entry(
                path=self.relative(str(name)),
                bytes=int(info.get("size") or 0),
                modified=_modified(info),
                regular=info.get("type") != "other" or bool(info.get("islink")),
            )
            for name, info in sorted(infos.items())
        ]

    def remove(self, path: str) -> None:
        """Delete a file, if it exists."""
        target = self.full(path)
        with contextlib.suppress(FileNotFoundError):
            self._remote(target, lambda: self.fs.rm_file(target))

    def remove_tree(self, path: str) -> None:
        """Delete a directory and all that is in it, if it exists."""
        target = self.full(path)
        with contextlib.suppress(FileNotFoundError):
            self._remote(target, lambda: self.fs.rm(target, recursive=True))

    def move_tree(self, path: str, to: str) -> None:
        """Copy a directory of an object store to another name and delete it; files of the same name are replaced."""
        source, target = self.full(path), self.full(to)
        for name in self._remote(source, lambda: self.fs.find(source)):
            copy = target + str(name)[len(source) :]
            self._remote(copy, lambda name=name, copy=copy: self.fs.cp_file(name, copy))  # type: ignore[misc]
        self.remove_tree(path)


def _modified(info: dict[str, Any]) -> float | None:
    """Seconds since 1970 when a file was modified; its key in fsspec's information differs between file systems."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(name)
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, datetime):
            return value.timestamp()
    return None
