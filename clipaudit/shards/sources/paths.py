"""Paths as tables write them, to files below a directory; nothing outside of it is ever used."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from typing import Final

from clipaudit.shards.pack_writer import inside

_DRIVE: Final = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file that a table names."""

    folder: str
    """Below the root; empty for the root itself."""
    name: str
    size: int
    """Bytes."""
    stamp: int
    """Time of the last change, ns."""


def is_absolute(path: str) -> bool:
    """Whether a path begins at a root or a drive, of this system or of Windows."""
    return path.startswith(("/", "\\")) or _DRIVE.match(path) is not None


def is_address(path: str) -> bool:
    """Whether a text is a URL."""
    return "://" in path[:12]


def look_up(path: str, root: str) -> ListedFile | str:
    """The file that `path` names below the real path `root`; else why there is none, a key of pack.REASONS.

    Backslashes separate folders where no file has them in its name. An absolute path is taken where it lies below
    `root`.
    """
    if "\0" in path:
        return "missing_file"
    result = _look_up(path, root)
    if result == "missing_file" and "\\" in path:
        return _look_up(path.replace("\\", "/"), root)
    return result


def _look_up(path: str, root: str) -> ListedFile | str:
    if _DRIVE.match(path):
        return "outside"
    # Without `..`, so that one file has one path; what links lead to is looked at below.
    relative = os.path.relpath(path, root) if path.startswith("/") else os.path.normpath(path)
    if relative == ".." or relative.startswith("../"):
        return "outside"
    full = f"{root}/{relative}"
    try:
        status = os.stat(inside(full, root))  # noqa: PTH116 - a call a row
    except (OSError, ValueError) as error:
        return "outside" if getattr(error, "errno", 0) == errno.ELOOP and os.path.exists(full) else "missing_file"  # noqa: PTH110
    if not stat.S_ISREG(status.st_mode):
        return "not_an_image"
    folder, _, name = relative.rpartition("/")
    return ListedFile(folder, name, status.st_size, status.st_mtime_ns)
