"""Files on local disks, written whole or not at all, and created exclusively; symbolic links are not followed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from clipaudit.errors import IntegrityError, UsageError

TEMPORARY = ".tmp"
"""Suffix of temporary files and directories; nothing reads them, and `clipaudit gc` removes them."""

_READ_BYTES = 4 * 2**20
_PROBED_FILES = 64  # whose time decides whether files are read one after another
_SLOW_SECONDS = 1e-3  # a file
# Errors of file systems that have no hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def name_aside(target: Path) -> Path:
    """A temporary name beside `target` that no other process uses."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}{TEMPORARY}")


def create_file(target: Path, data: bytes) -> bool:
    """Write a new file whole or not at all; False when one of this name exists already.

    Raises OSError. Of several processes that create the same file at once exactly one gets True.
    """
    aside = name_aside(target)
    try:
        _write_synced(aside, data)
        try:
            # A hard link appears in one step, with the content, and fails when the name is taken; a rename would
            # replace the other file.
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
    """The same by O_EXCL: exclusive, but a reader may see a part of the content."""
    try:
        handle = target.open("xb")
    except FileExistsError:
        return False
    try:
        with handle:
            handle.write(data)
    except OSError:
        target.unlink(missing_ok=True)  # this process created it: no other content is lost
        raise
    return True


def replace_file(target: Path, data: bytes) -> None:
    """Write a file, replacing an older one if it exists; a reader sees the old or the new content, never a mix.

    Raises OSError, and UsageError for a device, pipe or socket of this name, which a rename would put away.
    """
    with contextlib.suppress(FileNotFoundError):
        mode = target.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UsageError(f"cannot write {target}: there is a device, pipe or socket of this name")
    aside = name_aside(target)
    try:
        _write_synced(aside, data)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    _sync_directory(target.parent)  # what is removed because of the new content must not be gone before it is there


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading.

    Raises FileNotFoundError, other kinds of OSError, and IntegrityError for anything else of this name: a reader of a
    FIFO or a device may wait for ever.
    """
    # O_NONBLOCK: opening a FIFO that nobody writes to would wait; for a regular file it means nothing.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IntegrityError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_regular(path: str) -> bytes:
    """The content of a regular file, or of a link to one, with as few calls as there are; raises as `open_regular`."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise IntegrityError(f"{path} is not a regular file")
        data = os.read(descriptor, status.st_size + 1)
        if len(data) == status.st_size:  # else it grew meanwhile, or is longer than one read
            return data
        pieces = [data]
        while piece := os.read(descriptor, _READ_BYTES):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(descriptor)


def read_files(paths: Sequence[str], threads: int) -> Iterator[bytes | None]:
    """The contents of many small files in their order, None for one that does not exist; raises as `open_regular`.

    On a local disk threads only wait for each other: one of them reads 100,000 files in a few seconds. They are used
    where the first files took long, as on a network's file system.
    """
    began = time.perf_counter()
    first = [_read_or_none(path) for path in paths[:_PROBED_FILES]]
    slow = time.perf_counter() - began > _SLOW_SECONDS * len(first)
    yield from first
    rest = paths[_PROBED_FILES:]
    if not slow:
        yield from map(_read_or_none, rest)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(_read_or_none, rest, chunksize=64)


def _read_or_none(path: str) -> bytes | None:
    try:
        return read_regular(path)
    except FileNotFoundError:
        return None


def require_regular(path: Path) -> None:
    """Raise what `open_regular` raises, for readers that open the file by its name (memory maps)."""
    open_regular(path).close()


def _write_synced(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on the disk. Mode `x` (O_EXCL) follows no link at this name."""
    with path.open("xb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def _sync_directory(path: Path) -> None:
    """Wait until a directory's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Some network file systems cannot sync a directory; the file's content is synced already.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
