"""How far a job is and how fast: counts, rates, and the stage that the job waits for."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from clipaudit.run.records import CommitRecord

STAGES = ("read", "decode", "model", "write")
"""Under these an attempt's seconds are counted. Stages overlap, so that their sum may exceed the attempt's `total`."""

_MIN_SPACING_SECONDS = 0.25  # between two values that a rate remembers


@dataclass(kw_only=True)
class Tally:
    """What a job has done so far. Sums only: its size does not grow with the run."""

    shards_total: int
    """Shards of the run."""
    shards_committed: int
    """Committed in this run directory, by this job, an earlier one, or another driver."""
    queued: int = 0
    """Shards that wait for a worker or for their next attempt."""
    running: int = 0
    """Shards that a worker has."""
    failed: int = 0
    """Shards that this job gave up."""
    retries: Counter[str] = field(default_factory=Counter)
    """Attempts that failed and were followed by another, by kind of failure."""
    rows: int = 0
    """Samples of the shards that this job committed."""
    ok: int = 0
    """Rows that are ok."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Rows that are not ok, by status."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of committed attempts by stage, and their `total`."""
    samples_running: int = 0
    """Samples that the running attempts have written."""
    workers: int = 0
    """Workers that are starting, idle or busy."""
    workers_ready: int = 0
    """Workers that are idle or busy."""

    def add(self, record: CommitRecord) -> None:
        """Count a shard that this job committed."""
        self.shards_committed += 1
        self.rows += record.rows
        self.ok += record.ok
        self.skipped.update(record.skipped)
        for stage, seconds in record.timings.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @property
    def samples(self) -> int:
        """Samples of the shards that this job committed, and of its running attempts."""
        return self.rows + self.samples_running


class Rate:
    """Growth a second of a number over the last `window_seconds`; never negative."""

    def __init__(self, window_seconds: float = 30.0) -> None:
        self._window = window_seconds
        self._values: deque[tuple[float, float]] = deque()  # (seconds, value), oldest first

    def update(self, now: float, value: float) -> float:
        """Record `value` at `now` (seconds of one monotonic clock) and return the rate; 0 at the first call."""
        if not self._values or now - self._values[-1][0] >= _MIN_SPACING_SECONDS:
            self._values.append((now, value))
        while now - self._values[0][0] > self._window and len(self._values) > 1:
            self._values.popleft()
        then, before = self._values[0]
        return max(0.0, (value - before) / (now - then)) if now > then else 0.0


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Share of the attempts' time, 0..1, that each stage was busy; empty when nothing was timed.

    `seconds` holds the sums over attempts by stage, and their `total`.
    """
    total = seconds.get("total", 0.0)
    return {stage: min(1.0, seconds.get(stage, 0.0) / total) for stage in STAGES} if total > 0 else {}


def bottleneck(seconds: Mapping[str, float]) -> str:
    """The busiest stage with its share of the time, `model 97 % busy`: the job waits for it. Empty without timings."""
    busy = shares(seconds)
    if not busy:
        return ""
    stage = max(busy, key=busy.__getitem__)
    return f"{stage} {100 * busy[stage]:.0f} % busy"
