"""Errors of file systems as ours: a full disk, a path that cannot be written, what a remote store answered."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from clipaudit.errors import ClipauditError, StorageFull, UsageError
from clipaudit.storage.local import name_aside
from clipaudit.storage.remote import reason, remote_errors

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, a quota, a limit on the size of a file
_REFUSED: Final = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)
"""What the user's path, and no mistake of a program, brings about."""


@contextlib.contextmanager
def storage_errors(path: str) -> Iterator[None]:
    """Turn errors of the file system at `path` into StorageFull, or into UsageError for what a user can mend.

    FileNotFoundError, FileExistsError and errors of other kinds stay as they are.
    """
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
        if error.errno in _REFUSED:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
        if error.errno == errno.ENOTDIR:
            raise UsageError(f"cannot write {path}: a part of this path is a file, not a directory") from error
        if error.errno == errno.EISDIR:
            raise UsageError(f"cannot write {path}: there is a directory of this name") from error
        if isinstance(error, PermissionError) or error.__cause__ is not None:  # made by fsspec from a store's answer
            raise UsageError(f"cannot use {path}: {reason(error)}") from error
        raise
    except remote_errors() as error:
        raise UsageError(f"cannot use {path}: {reason(error)}") from error


@contextlib.contextmanager
def making(path: str) -> Iterator[None]:
    """`storage_errors` where a directory or file is made: UsageError also for a name that is taken or impossible."""
    try:
        with storage_errors(path):
            yield
    except FileExistsError as error:
        raise UsageError(f"cannot write {path}: there is a file of this name") from error
    except FileNotFoundError as error:
        raise UsageError(f"cannot write {path}: its directory is gone, or is one that takes no files") from error


@contextlib.contextmanager
def folder_aside(target: Path) -> Iterator[Path]:
    """A new directory beside `target` to write into and to rename from; what is left of it at the end is removed.

    UsageError where it cannot be made, and StorageFull or UsageError as `storage_errors` for what happens in the block.
    """
    aside = name_aside(target)
    try:
        with making(str(target)):
            aside.mkdir(parents=True)
        with storage_errors(str(target)):
            yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def of_the_system(error: OSError) -> ClipauditError | None:
    """Ours for an error of the operating system that no mistake of a program brings about; None for others."""
    if error.errno in _FULL:
        return StorageFull(f"no space left while writing {error.filename or 'a file'}")
    if error.errno in _REFUSED and error.filename is not None:
        return UsageError(f"{error.filename} cannot be used: {error.strerror}")
    return None
