"""Tags that people give to images: an append-only file of events, each with its author, reason and time."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from clipaudit.errors import UsageError
from clipaudit.explorer.event_log import EventLog, parse_event, place_of, text_of
from clipaudit.run.records import now
from clipaudit.storage.text_file import is_remote

TAG: Final = re.compile(r"[\w][\w-]{0,39}")
MAX_REASON: Final = 500
MAX_AUTHOR: Final = 80
MAX_IMAGES: Final = 100_000
"""Of one event."""
EXPLORER: Final = "explorer"
"""Where a run keeps what people say of it."""
_MAX_ID: Final = 100
_MAX_KEY: Final = 65_536

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
    foreign: int = 0
    """Images with a tag that the run does not have at their place with their key."""

    def among(self, keys: Sequence[str | None]) -> TagState:
        """The same with the images that are those of a run; keys: of the run's rows at the places of `by_image`, in its
        order, None where there is no row. A tag must not go to another image of that number.
        """
        same = [
            place for place, key in zip(self.by_image, keys, strict=True) if key is not None and key == self.keys[place]
        ]
        by_image = {place: self.by_image[place] for place in same}
        return replace(self, by_image=by_image, foreign=len(self.by_image) - len(same))

    @property
    def counts(self) -> dict[str, int]:
        """Images of each tag, in the order of the tags' names."""
        counts: dict[str, int] = {}
        for tags in self.by_image.values():
            for tag in tags:
                counts[tag] = counts.get(tag, 0) + 1
        return dict(sorted(counts.items()))


class TagLog(EventLog[TagState]):
    """A file of tag events, for any number of threads and of servers on one machine."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _state)

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
        self.append(_plain(event))
        return event

    def undo(self, event: str, author: str = "") -> TagEvent:
        """Undo an event by its id; returns it. UsageError when there is none of that id that counts."""
        undone = next((each for each in self.state().events if each.id == event), None)
        if undone is None:
            raise UsageError("there is nothing to undo: that step is undone already, or is none of this file")
        self.append({"id": secrets.token_hex(6), "time": now(), "author": author, "undoes": undone.id})
        return undone


def _check(tag: str, author: str, reason: str) -> None:
    if TAG.fullmatch(tag) is None:
        raise UsageError(
            f"the tag {tag[:60]!r} cannot be used: letters, digits, - and _, at most 40, such as wrong-label"
        )
    if len(reason) > MAX_REASON or len(author) > MAX_AUTHOR:
        raise UsageError(f"a reason has at most {MAX_REASON} characters, an author {MAX_AUTHOR}")


def _plain(event: TagEvent) -> dict[str, Any]:
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
    """A line as an event; None for one that this package cannot have written."""
    plain = parse_event(line)
    if plain is None:
        return None
    try:
        undoes = plain.get("undoes")
        places = plain.get("images", [])
        tag = text_of(plain.get("tag", ""), 40)
        if len(places) > MAX_IMAGES or (undoes is None and TAG.fullmatch(tag) is None):
            return None
        return TagEvent(
            id=text_of(plain["id"], _MAX_ID),
            time=text_of(plain["time"], _MAX_ID),
            author=text_of(plain["author"], MAX_AUTHOR),
            tag=tag,
            reason=text_of(plain.get("reason", ""), MAX_REASON),
            images=tuple((place_of(shard), place_of(index), text_of(key, _MAX_KEY)) for shard, index, key in places),
            removes=plain.get("removes", False) is True,
            undoes=None if undoes is None else text_of(undoes, _MAX_ID),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _state(lines: Sequence[str]) -> TagState:
    parsed = [_event(line) for line in lines]
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
    inside = Path(run) / EXPLORER / "tags.jsonl"
    if inside.exists() or not write:
        return inside if inside.exists() or not beside.exists() else beside
    return inside if os.access(run, os.W_OK) else beside


def labels_beside(tags: Path) -> Path:
    """The file of a run's labels, beside that of its tags: `labels.jsonl`, `NAME-labels.jsonl`."""
    name = re.sub("tags$", "labels", tags.stem)
    return tags.with_name(f"{name if name != tags.stem else f'{name}-labels'}.jsonl")
