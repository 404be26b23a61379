"""Files on this machine's disks: made whole or not at all, by one of all who try; never through a planted link."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from pathlib import Path

TEMPORARY = ".tmp"
"""Suffix of everything that is written aside; such names are never read, and `clipaudit gc` removes them."""

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}{TEMPORARY}")


def create_file(target: Path, data: bytes) -> bool:
    """Write a new file whole or not at all; False when there is one of this name already."""
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


def replace_file(target: Path, data: bytes) -> None:
    """Write a file, in place of an older one if there is one; a reader sees the old or the new one, never a mix."""
    aside = _aside(target)
    try:
        _write_synced(aside, data)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


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
