"""`clipaudit status --watch`: how far a run is, how fast, and when it will end, from its commit records alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from clipaudit.job.progress import bottleneck
from clipaudit.run.directory import ATTEMPTS, FAILED, RunDirectory, newest_place, shard_of
from clipaudit.run.records import CommitRecord

_RECENT = 50
"""Number of last commits that the speed is taken from."""


@dataclass(frozen=True, kw_only=True)
class Sight:
    """A run as it looks at one moment."""

    run: str
    shards: int
    committed: int
    failed: int
    """Given up, and not committed since."""
    attempts: int
    """Attempts that have begun and are not committed: running, or lost with their worker."""
    rows: int
    """Of the committed shards."""
    ok: int
    """Rows that are ok."""
    skipped: dict[str, int]
    """Rows that are not ok, by status."""
    bytes_in: int
    """Input bytes of all shards."""
    bytes_committed: int
    """Input bytes of the committed shards."""
    images_per_second: float
    """Over the last commits, all workers together, pauses between jobs left out; 0 before the first commit."""
    bottleneck: str
    """`model 97 % busy`, or empty."""
    seconds_left: float | None
    """At the present rate of input bytes; None before the first commit."""
    last_commit: str
    """Time of the last commit, ISO 8601, by the clock of the worker's machine; empty before the first."""

    @property
    def done(self) -> bool:
        """Whether every shard is committed or given up."""
        return self.committed + self.failed >= self.shards


class Watcher:
    """Looks at a run again and again; each look reads only the commit records that are new."""

    def __init__(self, run: str | RunDirectory) -> None:
        """Open a run, by its path or URL. Raises RunNotFound when there is none, UsageError for `RUN@1`."""
        self._directory = newest_place(run, "--watch looks at a run as it is now")
        self._sizes = {shard.id: shard.size for shard in self._directory.history().shards}
        self._bytes_in = sum(self._sizes.values())
        self._known: set[int] = set()
        self._recent: list[CommitRecord] = []
        self._rows = self._ok = self._bytes = 0
        self._skipped: dict[str, int] = {}

    def look(self) -> Sight:
        """The run as it is now, by three listings and one small read for each new commit."""
        # Attempts are listed first: one that is committed before the next listing counts as committed, not as lost.
        attempts = {shard_of(name) for name in self._directory.storage.names(ATTEMPTS)}
        failed = {shard_of(name) for name in self._directory.storage.names(FAILED)}
        self._take(self._directory.committed(self._directory.committed_ids() - self._known))
        busy = _busy_seconds(self._recent)
        images = sum(record.rows for record in self._recent)
        size = sum(record.input_size for record in self._recent)
        left = self._bytes_in - self._bytes
        failed -= self._known
        return Sight(
            run=self._directory.url,
            shards=len(self._sizes),
            committed=len(self._known),
            failed=len(failed),
            attempts=len(attempts - self._known - failed),
            rows=self._rows,
            ok=self._ok,
            skipped=dict(sorted(self._skipped.items())),
            bytes_in=self._bytes_in,
            bytes_committed=self._bytes,
            images_per_second=images / busy if busy > 0 else 0.0,
            bottleneck=bottleneck(_sums(record.timings for record in self._recent)),
            seconds_left=left * busy / size if size > 0 else None,
            last_commit=self._recent[-1].committed_at if self._recent else "",
        )

    def _take(self, records: Mapping[int, CommitRecord]) -> None:
        for record in records.values():
            self._known.add(record.shard_id)
            self._rows += record.rows
            self._ok += record.ok
            self._bytes += record.input_size
            for status, count in record.skipped.items():
                self._skipped[status] = self._skipped.get(status, 0) + count
        self._recent = sorted([*self._recent, *records.values()], key=_ended)[-_RECENT:]


def _ended(record: CommitRecord) -> float:
    return datetime.fromisoformat(record.committed_at).timestamp()


def _busy_seconds(records: Sequence[CommitRecord]) -> float:
    """Seconds in which at least one of the attempts was running, so that pauses between two jobs do not count.

    The length of the union of the attempts' intervals [end - duration, end], swept in the order of their starts.
    """
    spans = sorted((_ended(record) - record.timings.get("total", 0.0), _ended(record)) for record in records)
    busy, until = 0.0, -float("inf")
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy


def _sums(timings: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Seconds by stage, summed over attempts."""
    total: dict[str, float] = {}
    for seconds in timings:
        for stage, value in seconds.items():
            total[stage] = total.get(stage, 0.0) + value
    return total
