"""Tags that people give to images: an append-only file of events, each with its author, reason and time."""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from clipaudit.errors import UsageError
from clipaudit.run.records import now
from clipaudit.storage.directory import storage_errors
from clipaudit.storage.text_file import is_remote, parse_json

TAG: Final = re.compile(r"[\w][\w-]{0,39}")
MAX_REASON: Final = 500
MAX_AUTHOR: Final = 80
MAX_IMAGES: Final = 100_000
"""Of one event."""

ImagePlace: TypeAlias = tuple[int, int, str]
"""Shard id, position in the shard, key."""


@dataclass(frozen=True, kw_only=True)
class TagEvent:
    """One line of the file: a tag given to images or taken from them, or an earlier event undone."""

    id: str
    time: str
    """UTC, ISO 8601."""
    author: str
    tag: str = ""
    reason: str = ""
    images: tuple[ImagePlace, ...] = ()
    removes: bool = False
    """Whether the tag is taken away."""
    undoes: str | None = None
    """Id of the event that no longer counts."""


@dataclass(frozen=True, kw_only=True)
class Tagged:
    """One tag of one image."""

    tag: str
    author: str
    reason: str
    time: str


@dataclass(frozen=True, kw_only=True)
class TagState:
    """What the events add up to."""

    by_image: dict[tuple[int, int], dict[str, Tagged]] = field(default_factory=dict)
    """(shard id, position) -> tag -> who gave it, when and why; only images with a tag."""
    keys: dict[tuple[int, int], str] = field(default_factory=dict)
    events: tuple[TagEvent, ...] = ()
    """Those that count, oldest first: neither undone nor undoing."""
    damaged: int = 0
    """Lines that are no event, which are left as they are."""

    @property
    def counts(self) -> dict[str, int]:
        """Images of each tag, in the order of the tags' names."""
        counts: dict[str, int] = {}
        for tags in self.by_image.values():
            for tag in tags:
                counts[tag] = counts.get(tag, 0) + 1
        return dict(sorted(counts.items()))


class TagLog:
    """A file of tag events, for any number of threads and of servers on one machine.

    Each event is one line of JSON, appended by one write, so that writers at the same time lose nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._read: tuple[int, TagState] = (-1, TagState())

    @property
    def version(self) -> int:
        """Changes with every event: bytes of the file."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def state(self) -> TagState:
        """What the file holds now, including what others wrote."""
        with self._lock:
            version = self.version
            if version != self._read[0]:
                self._read = version, _state(_lines(self.path))
            return self._read[1]

    def add(
        self, tag: str, images: Sequence[ImagePlace], *, author: str = "", reason: str = "", removes: bool = False
    ) -> TagEvent:
        """Give images a tag, or take it away; UsageError for a tag, author or reason that cannot be used."""
        _check(tag, author, reason)
        if not images:
            raise UsageError("no image is chosen")
        if len(images) > MAX_IMAGES:
            raise UsageError(f"{len(images):,} images are more than the {MAX_IMAGES:,} of one step")
        event = TagEvent(
            id=secrets.token_hex(6),
            time=now(),
            author=author,
            tag=tag,
            reason=reason,
            images=tuple(images),
            removes=removes,
        )
        self._append(event)
        return event

    def undo(self, author: str = "") -> TagEvent:
        """Undo the latest event that counts; returns it. UsageError when there is none."""
        events = self.state().events
        if not events:
            raise UsageError("there is nothing to undo")
        self._append(TagEvent(id=secrets.token_hex(6), time=now(), author=author, undoes=events[-1].id))
        return events[-1]

    def _append(self, event: TagEvent) -> None:
        line = json.dumps(_plain(event), ensure_ascii=False) + "\n"
        with self._lock, storage_errors(str(self.path)):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as handle:
                # a line that a killed process left without its end must not swallow this one
                broken = handle.tell() > 0 and not _ends_with_newline(self.path)
                handle.write((b"\n" if broken else b"") + line.encode())
                handle.flush()
                os.fsync(handle.fileno())


def _check(tag: str, author: str, reason: str) -> None:
    if TAG.fullmatch(tag) is None:
        raise UsageError(
            f"the tag {tag[:60]!r} cannot be used: letters, digits, - and _, at most 40, such as wrong-label"
        )
    if len(reason) > MAX_REASON or len(author) > MAX_AUTHOR:
        raise UsageError(f"a reason has at most {MAX_REASON} characters, an author {MAX_AUTHOR}")


def _plain(event: TagEvent) -> dict[str, Any]:
    if event.undoes is not None:
        return {"id": event.id, "time": event.time, "author": event.author, "undoes": event.undoes}
    return {
        "id": event.id,
        "time": event.time,
        "author": event.author,
        "tag": event.tag,
        "reason": event.reason,
        "removes": event.removes,
        "images": [list(image) for image in event.images],
    }


def _event(line: str) -> TagEvent | None:
    try:
        plain: Any = parse_json(line.encode())
        images = tuple((int(shard), int(index), str(key)) for shard, index, key in plain.get("images", ()))
        return TagEvent(
            id=str(plain["id"]),
            time=str(plain["time"]),
            author=str(plain["author"]),
            tag=str(plain.get("tag", "")),
            reason=str(plain.get("reason", "")),
            images=images,
            removes=bool(plain.get("removes", False)),
            undoes=None if plain.get("undoes") is None else str(plain["undoes"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return []


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as handle:
        handle.seek(-1, os.SEEK_END)
        return handle.read(1) == b"\n"


def _state(lines: Sequence[str]) -> TagState:
    parsed = [_event(line) for line in lines if line.strip()]
    events = [event for event in parsed if event is not None]
    undone = {event.undoes for event in events if event.undoes is not None}
    counting = [event for event in events if event.undoes is None and event.id not in undone]
    state = TagState(events=tuple(counting), damaged=len(parsed) - len(events))
    for event in counting:
        tagged = Tagged(tag=event.tag, author=event.author, reason=event.reason, time=event.time)
        for shard, index, key in event.images:
            tags = state.by_image.setdefault((shard, index), {})
            state.keys[shard, index] = key
            if event.removes:
                tags.pop(event.tag, None)
            else:
                tags[event.tag] = tagged
            if not tags:
                del state.by_image[shard, index]
    return state


def default_tags(run: str, *, write: bool) -> Path:
    """The file of a run's tags: `explorer/tags.jsonl` in it; for a run that is remote, or that cannot be written to,
    `NAME-tags.jsonl` in the working directory, NAME that of the run.
    """
    name = run.rstrip("/").rpartition("/")[2] or "run"
    beside = Path(f"{name}-tags.jsonl")
    if is_remote(run):
        return beside
    inside = Path(run) / "explorer" / "tags.jsonl"
    if inside.exists() or not write:
        return inside if inside.exists() or not beside.exists() else beside
    return inside if os.access(run, os.W_OK) else beside
