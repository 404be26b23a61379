"""The driver's queue: which shard goes to which worker, what is tried again, and when the job gives up."""

from __future__ import annotations

import heapq
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from clipaudit.config import ExecutionConfig
from clipaudit.errors import Interrupted, RunMismatch, WorkersUnavailable
from clipaudit.records import CommitRecord, FailureRecord
from clipaudit.rundir import RunDirectory, new_attempt
from clipaudit.schema import Shard
from clipaudit.tasks import Event, Failed, Finished, Pool, Ready, StartFailed, Task, WorkerFacts

_POLL_SECONDS = 0.5
_KILL_GRACE_SECONDS = 60.0  # a worker checks its deadline between batches; only a stuck one has to be killed
_BACKOFF_SECONDS = 2.0


@dataclass(kw_only=True)
class Tally:
    """What this job has done so far; given to the reporter after every round."""

    shards_total: int
    shards_committed: int
    """Committed in this run directory, earlier jobs included."""
    records: list[CommitRecord] = field(default_factory=list)
    """Commit records of this job, metadata only."""
    failed: int = 0
    samples_running: int = 0
    workers: int = 0

    @property
    def samples(self) -> int:
        """Samples of the shards that this job committed, and of its running attempts."""
        return sum(record.rows for record in self.records) + self.samples_running


class Scheduler:
    """Hands shards to workers, largest first, until every shard is committed or has failed for good."""

    def __init__(
        self,
        run_dir: RunDirectory,
        pool: Pool,
        config: ExecutionConfig,
        stop: threading.Event,
        on_tick: Callable[[Tally], None] = lambda tally: None,
        on_retry: Callable[[Failed, int], None] = lambda failed, attempt: None,
    ) -> None:
        self._run_dir = run_dir
        self._pool = pool
        self._config = config
        self._stop = stop
        self._on_tick = on_tick
        self._on_retry = on_retry
        self._start_failures: Counter[str] = Counter()
        self._attempts: Counter[int] = Counter()
        self._running: dict[str, tuple[Task, float]] = {}
        self._killed: set[str] = set()
        self._queue: list[tuple[float, int, int, Shard]] = []
        self._facts: WorkerFacts | None = None
        self._fingerprint = ""

    def first_worker(self) -> WorkerFacts:
        """Start the pool and wait for a worker; its facts describe the run's table."""
        self._pool.start()
        while self._facts is None:
            self._refuse_if_stopped()
            for event in self._pool.poll(_POLL_SECONDS):
                self._handle_worker(event)
        return self._facts

    def run(self, shards: Iterable[Shard], fingerprint: str, tally: Tally) -> None:
        """Process `shards`; returns when each is committed or recorded as failed.

        Raises Interrupted once a requested stop has let the running shards finish, WorkersUnavailable when no worker
        can be started, and StorageFull from whoever meets it first.
        """
        self._fingerprint = fingerprint
        # (not before, -size): due now, largest first, so that no giant starts last
        self._queue = [(0.0, -shard.size, shard.id, shard) for shard in shards]
        heapq.heapify(self._queue)
        while self._running or (self._queue and not self._stop.is_set()):
            self._hand_out()
            for event in self._pool.poll(_POLL_SECONDS):
                self._handle(event, tally)
            self._kill_stuck()
            tally.samples_running, tally.workers = self._pool.progress(), self._pool.live()
            self._on_tick(tally)
        if self._queue:
            self._refuse_if_stopped(tally)

    def _hand_out(self) -> None:
        now = time.monotonic()
        while self._queue and self._queue[0][0] <= now and self._pool.idle() > 0 and not self._stop.is_set():
            *_, shard = heapq.heappop(self._queue)
            task = Task(
                shard=shard,
                attempt=new_attempt(),
                run_fingerprint=self._fingerprint,
                max_seconds=self._config.max_shard_seconds,
            )
            self._running[task.attempt] = (task, now)
            self._pool.submit(task)

    def _handle(self, event: Event, tally: Tally) -> None:
        match event:
            case Finished(task=task, record=record):
                del self._running[task.attempt]
                if self._run_dir.commit(record):
                    tally.records.append(record)
                else:  # another driver of this run was first: its files count, ours go
                    self._run_dir.discard(record)
                self._run_dir.clear_failure(task.shard.id)
                tally.shards_committed += 1
            case Failed():
                self._handle_failure(event, tally)
            case _:
                self._handle_worker(event)

    def _handle_failure(self, event: Failed, tally: Tally) -> None:
        shard = event.task.shard
        del self._running[event.task.attempt]
        self._killed.discard(event.task.attempt)
        counts = event.kind in ("error", "timeout") or (
            event.kind == "worker_lost" and self._run_dir.attempt_began(shard.id, event.task.attempt)
        )
        self._attempts[shard.id] += counts
        tried = self._attempts[shard.id]
        if tried < self._config.max_attempts:
            self._on_retry(event, tried)
            delay = _BACKOFF_SECONDS * 2 ** (tried - 1) if counts else 0.0
            heapq.heappush(self._queue, (time.monotonic() + delay, -shard.size, shard.id, shard))
            return
        tally.failed += 1
        self._run_dir.record_failure(
            FailureRecord(
                shard_id=shard.id,
                url=shard.url,
                attempts=tried,
                kind=event.kind,
                error=event.error,
                traceback=event.traceback,
            )
        )

    def _handle_worker(self, event: Event) -> None:
        if isinstance(event, Ready):
            self._start_failures[event.worker] = 0
            if self._facts is None:
                self._facts = event.facts
            elif event.facts.model["fingerprint"] != self._facts.model["fingerprint"]:
                raise RunMismatch(
                    f"worker {event.worker} on {event.facts.host} loaded other weights than the worker on"
                    f" {self._facts.host}: give every node the same model files"
                )
        elif isinstance(event, StartFailed):
            self._start_failures[event.worker] += 1
            if self._start_failures[event.worker] <= self._config.max_init_failures:
                self._pool.restart(event.worker)
            elif self._pool.live() == 0:
                raise WorkersUnavailable(f"no worker could be started; the last one said: {event.error}")

    def _kill_stuck(self) -> None:
        latest = time.monotonic() - self._config.max_shard_seconds - _KILL_GRACE_SECONDS
        for attempt, (task, started) in self._running.items():
            if started < latest and attempt not in self._killed:
                self._killed.add(attempt)
                self._pool.kill(task)

    def _refuse_if_stopped(self, tally: Tally | None = None) -> None:
        if self._stop.is_set():
            done = f" after {tally.shards_committed} of {tally.shards_total} shards" if tally else " before it began"
            raise Interrupted(f"stopped by a signal{done}; the same command goes on from there")
