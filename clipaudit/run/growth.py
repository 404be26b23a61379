"""How a run grew and moved: records of appended shards and of new homes, and the list of shards that they make.

`run.json` stays as it was created. `growth/000001.json` adds shards, and `moves/000001.json` says where shards are now;
both are created exclusively, in the order of their numbers.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final

from clipaudit.errors import IntegrityError, UsageError
from clipaudit.run.records import Manifest, now, one_line, parse_record, wrong_shards
from clipaudit.schema import SCHEMA_VERSION, Shard

GROWTH, MOVES = "growth", "moves"
_MOMENT: Final = re.compile(r"(?P<run>.*[^/@])@(?P<moment>\d{1,9}|\d{4}-\d\d-\d\d([T ][\d:.]+(Z|[+-]\d\d:?\d\d)?)?)")


@dataclass(frozen=True, kw_only=True)
class Growth:
    """`growth/000001.json`: shards that `--append` added to the run."""

    generation: int
    """1 for the first append; the shards of `run.json` are generation 0."""
    shards: tuple[Shard, ...]
    """In the order of their ids, which go on behind those of the generation before."""
    clipaudit_version: str
    packages: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that computed these shards."""
    created: str = field(default_factory=now)
    """ISO 8601, UTC."""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> bytes:
        """UTF-8 JSON on one line with a digest of itself."""
        return one_line(self)

    @staticmethod
    def from_json(data: bytes, where: str) -> Growth:
        """Read back; IntegrityError naming `where` when it is damaged or of another version."""
        return parse_record(Growth, data, where, IntegrityError)


@dataclass(frozen=True, kw_only=True)
class Move:
    """`moves/000001.json`: where shards are now, and the etags with which their contents were compared."""

    number: int
    """From 1 on."""
    prefixes: tuple[tuple[str, str], ...] = ()
    """(FROM, TO): a URL that is FROM, or lies below it, begins with TO from now on."""
    etags: dict[str, str] = field(default_factory=dict)
    """By shard id, of shards that are the recorded ones although their etag changed: a copy, or a file restored."""
    created: str = field(default_factory=now)
    """ISO 8601, UTC."""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> bytes:
        """UTF-8 JSON on one line with a digest of itself."""
        return one_line(self)

    @staticmethod
    def from_json(data: bytes, where: str) -> Move:
        """Read back; IntegrityError naming `where` when it is damaged or of another version."""
        return parse_record(Move, data, where, IntegrityError)

    def apply(self, url: str) -> str:
        """The URL of a shard behind this move; of several FROM that it lies below the longest counts.

        A TO may lie below its FROM: what is there already stays there.
        """
        for source, target in sorted(self.prefixes, key=lambda pair: -len(pair[0])):
            if lies_below(url, source) and not (lies_below(target, source) and lies_below(url, target)):
                return f"{target.rstrip('/')}{url[len(source.rstrip('/')) :]}"
        return url


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A state of a run: all of it up to a generation, or what was committed until a time."""

    text: str
    """As it was given behind the `@`."""
    generation: int | None = None
    until: datetime | None = None
    """UTC, inclusive."""

    @staticmethod
    def parse(text: str) -> Moment:
        """`2` is a generation; `2026-11-01` is the end of that day, and `2026-11-01T12:30` that time, in UTC.

        UsageError for what is neither.
        """
        if text.isdecimal():
            return Moment(text=text, generation=int(text))
        try:
            until = datetime.fromisoformat(text)
        except ValueError as error:
            raise UsageError(f"@{text} is no date or time in UTC such as 2026-11-01 or 2026-11-01T12:30") from error
        until = until.replace(tzinfo=UTC) if until.tzinfo is None else until
        if len(text) == len("2026-11-01"):
            until += timedelta(days=1, microseconds=-1)
        return Moment(text=text, until=until.astimezone(UTC))

    def covers(self, time: str) -> bool:
        """Whether what happened at a time (ISO 8601) belongs to this state; always true of a generation."""
        return self.until is None or _time(time) <= self.until


def lies_below(url: str, place: str) -> bool:
    """Whether a URL is a place or lies in it."""
    return url == place or url.startswith(f"{place.rstrip('/')}/")


def split_moment(text: str) -> tuple[str, str | None]:
    """(run, what is behind its `@`) of `RUN@GENERATION` or `RUN@TIME`; None for a text without either."""
    match = _MOMENT.fullmatch(text)
    return (text, None) if match is None else (match["run"], match["moment"])


@dataclass(frozen=True, kw_only=True)
class History:
    """A run's own record of its shards: as created, appended and moved."""

    manifest: Manifest
    """As `run.json` has it."""
    growths: tuple[Growth, ...] = ()
    """In the order of their generations."""
    moves: tuple[Move, ...] = ()
    """In the order of their numbers."""

    @property
    def generation(self) -> int:
        """The newest; 0 for a run that never grew."""
        return len(self.growths)

    @cached_property
    def recorded(self) -> tuple[Shard, ...]:
        """Every shard as it was recorded first, in the order of ids."""
        return (*self.manifest.shards, *(shard for growth in self.growths for shard in growth.shards))

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """Every shard where it is now, with the etag that its content was last compared with, in the order of ids."""
        if not self.moves:
            return self.recorded
        etags = {int(shard): etag for move in self.moves for shard, etag in move.etags.items()}
        return tuple(
            replace(shard, url=self.homes(shard.url)[-1], etag=etags.get(shard.id, shard.etag))
            for shard in self.recorded
        )

    def homes(self, url: str) -> list[str]:
        """The URLs that a shard, recorded at `url`, had one after another; the last is where it is now."""
        urls = [url]
        for move in self.moves:
            urls.append(move.apply(urls[-1]))
        return list(dict.fromkeys(reversed(urls)))[::-1]  # each once, where it was last: a shard may come back

    @cached_property
    def _ends(self) -> list[int]:
        """By generation, the first shard id that is not of it or of an earlier one."""
        ends = [len(self.manifest.shards)]
        for growth in self.growths:
            ends.append(ends[-1] + len(growth.shards))
        return ends

    def generation_of(self, shard_id: int) -> int:
        """The generation that added a shard."""
        return bisect.bisect_right(self._ends, shard_id)

    def generations_with_all(self, ids: Iterable[int]) -> bool:
        """Whether these shard ids are those of the first generations, whole: what some earlier command named."""
        chosen = set(ids)
        return len(chosen) in self._ends and max(chosen, default=-1) == len(chosen) - 1

    def at(self, moment: Moment, url: str) -> History:
        """The run as it was; UsageError when there is no such generation, or the run is younger."""
        if moment.until is not None:
            if not moment.covers(self.manifest.created):
                raise UsageError(f"the run at {url} began at {self.manifest.created}: there is none @{moment.text}")
            growths = tuple(growth for growth in self.growths if moment.covers(growth.created))
            return replace(self, growths=growths)
        wanted = moment.generation or 0
        if wanted > self.generation:
            has = "generation 0 alone" if not self.growths else f"generations 0 to {self.generation}"
            raise UsageError(f"the run at {url} has {has}, and no generation {wanted}")
        return replace(self, growths=self.growths[:wanted])


def history_of(manifest: Manifest, growths: Sequence[Growth], moves: Sequence[Move], where: str) -> History:
    """A History of records that fit each other; IntegrityError naming the run for others."""
    following = len(manifest.shards)
    for number, growth in enumerate(growths, 1):
        wrong = wrong_shards(growth.shards, following)
        if growth.generation != number or wrong:
            raise IntegrityError(f"{where}/{GROWTH} is damaged: generation {number}: {wrong or 'it is not there'}")
        following += len(growth.shards)
    for number, move in enumerate(moves, 1):
        if move.number != number or not all(shard.isdecimal() for shard in move.etags):
            raise IntegrityError(f"{where}/{MOVES} is damaged: record {number} is not there")
    return History(manifest=manifest, growths=tuple(growths), moves=tuple(moves))


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time
