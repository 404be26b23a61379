"""A job's metrics for Prometheus, from the driver's tally; the classes of metrics are Ray's, given by `engine_ray`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from clipaudit.job.progress import Rate, Tally, shares


class JobMetrics:
    """The metrics that docs/cluster.md lists. Ray adds the prefix `ray_` to each name, and tags of its own.

    Args:
        run: the run directory, the tag `run` of every metric.
        gauge: `ray.util.metrics.Gauge`, or a class like it.
        counter: `ray.util.metrics.Counter`, or a class like it.
    """

    def __init__(self, run: str, gauge: Callable[..., Any], counter: Callable[..., Any]) -> None:
        def make(kind: Callable[..., Any], name: str, text: str, *tags: str) -> Any:  # noqa: ANN401 - Ray's metric
            metric = kind(f"clipaudit_{name}", text, tag_keys=("run", *tags))
            metric.set_default_tags({"run": run})
            return metric

        new_gauge, new_counter = partial(make, gauge), partial(make, counter)
        self._shards = new_gauge("shards", "Shards by state: committed, running, queued, failed.", "state")
        self._workers = new_gauge("workers", "Workers by state: ready, starting.", "state")
        self._speed = new_gauge("images_per_second", "Images a second over the last half minute, all workers together.")
        self._busy = new_gauge("stage_busy_ratio", "Share of the attempts' time that a stage was busy, 0..1.", "stage")
        self._images = new_counter("images_total", "Images committed by this job, by status.", "status")
        self._retries = new_counter("retries_total", "Attempts that failed and were followed by another.", "kind")
        self._rate = Rate()
        self._counted: Counter[tuple[str, str]] = Counter()
        """(tag, value) -> what its counter has reached."""

    def set(self, tally: Tally) -> None:
        """Bring every metric to what the tally says."""
        states = (
            ("committed", tally.shards_committed),
            ("running", tally.running),
            ("queued", tally.queued),
            ("failed", tally.failed),
        )
        for state, number in states:
            self._shards.set(number, {"state": state})
        self._workers.set(tally.workers_ready, {"state": "ready"})
        self._workers.set(tally.workers - tally.workers_ready, {"state": "starting"})
        self._speed.set(self._rate.update(time.monotonic(), tally.samples))
        for stage, share in shares(tally.seconds).items():
            self._busy.set(share, {"stage": stage})
        for status, number in (("ok", tally.ok), *tally.skipped.items()):
            self._raise_to(self._images, "status", status, number)
        for kind, number in tally.retries.items():
            self._raise_to(self._retries, "kind", kind, number)

    def _raise_to(self, counter: Any, tag: str, value: str, total: int) -> None:  # noqa: ANN401 - Ray's counter
        """Counters can only be incremented: add what is missing to `total`."""
        missing = total - self._counted[tag, value]
        if missing > 0:
            counter.inc(missing, {tag: value})
            self._counted[tag, value] = total
