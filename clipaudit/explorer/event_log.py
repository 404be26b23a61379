"""An append-only file of JSON lines that several threads, and servers on one machine, write to."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from clipaudit.errors import IntegrityError
from clipaudit.storage.faults import storage_errors
from clipaudit.storage.text_file import parse_json

T = TypeVar("T")
MAX_BYTES: Final = 2**28
"""Of a file that is read: what people tag and label by hand stays far below."""
MAX_PLACE: Final = 2**31 - 1
"""Of shards, and of positions in a shard."""


class EventLog(Generic[T]):
    """A file whose lines add up to a state. Each event is one line, appended by one write, so that writers at the same
    time lose nothing; nothing is ever taken out.
    """

    def __init__(self, path: Path, state_of: Callable[[Sequence[str]], T]) -> None:
        """state_of: what lines without empty ones add up to."""
        self.path = path
        self._state_of = state_of
        self._lock = threading.Lock()
        self._read: tuple[tuple[int, int], T] | None = None

    @property
    def version(self) -> int:
        """Changes with every event: bytes of the file."""
        return self.stamp[0]

    def state(self) -> T:
        """What the file holds now, including what others wrote; IntegrityError when it has more than MAX_BYTES."""
        with self._lock:
            stamp = self.stamp
            if self._read is None or stamp != self._read[0]:
                self._read = stamp, self._state_of(self._lines(stamp[0]))
            return self._read[1]

    @property
    def stamp(self) -> tuple[int, int]:
        """Bytes and time of the last change: what a state is kept under, also where somebody edits the file."""
        try:
            status = self.path.stat()
        except OSError:
            return 0, 0
        return status.st_size, status.st_mtime_ns

    def append(self, event: Mapping[str, Any]) -> None:
        """Add a line; StorageFull and UsageError as every writer of files."""
        line = json.dumps(event, ensure_ascii=False) + "\n"
        with self._lock, storage_errors(str(self.path)):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as handle:
                # a line that a killed process left without its end must not swallow this one
                broken = handle.tell() > 0 and not _ends_with_newline(self.path)
                handle.write((b"\n" if broken else b"") + line.encode())
                handle.flush()
                os.fsync(handle.fileno())

    def _lines(self, size: int) -> list[str]:
        if size > MAX_BYTES:
            raise IntegrityError(f"{self.path} has {size:,} bytes, more than the {MAX_BYTES:,} that are read: move it")
        try:
            text = self.path.read_text("utf-8", errors="replace")
        except FileNotFoundError:
            return []
        return [line for line in text.split("\n") if line.strip()]


def parse_event(line: str) -> dict[str, Any] | None:
    """A line as plain values; None for one that is no JSON object."""
    try:
        plain = parse_json(line.encode())
    except (ValueError, RecursionError):
        return None
    return plain if isinstance(plain, dict) else None


def place_of(value: object) -> int:
    """A shard's id, or a position in one; ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_PLACE:
        return value
    raise ValueError(value)


def text_of(value: object, most: int) -> str:
    """A text of at most `most` characters; ValueError for anything else."""
    if isinstance(value, str) and len(value) <= most:
        return value
    raise ValueError(value)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as handle:
        handle.seek(-1, os.SEEK_END)
        return handle.read(1) == b"\n"
