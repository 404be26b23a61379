"""The driver's queue: which shard is handed out next, which attempts are repeated, and when the job gives up."""

from __future__ import annotations

import contextlib
import heapq
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue

from clipaudit.config import ExecutionConfig
from clipaudit.errors import Interrupted, RunMismatch, ShardError, WorkersUnavailable
from clipaudit.job.progress import Tally
from clipaudit.job.protocol import Event, Failed, Finished, Observer, Pool, Ready, StartFailed, Task, WorkerFacts
from clipaudit.run.directory import RunDirectory, new_attempt
from clipaudit.run.records import CommitRecord, FailureRecord
from clipaudit.schema import Shard
from clipaudit.storage.remote import remote_errors

_POLL_SECONDS = 0.5
_KILL_GRACE_SECONDS = 60.0  # a worker checks its time limit between batches; only a stuck one has to be killed
_BACKOFF_SECONDS = 2.0
_LONGEST_BACKOFF_SECONDS = 300.0
_jitter = random.SystemRandom()  # not the random stream that a user may have seeded
_COMMIT_THREADS = 16  # a commit spends its time waiting for a disk or a store
_MAX_WAITING_COMMITS = 256  # with so many no shard is handed out: the store is slower than the workers
_LISTING_SECONDS = 10.0  # between two listings of what other drivers have committed
_MAX_UNFORESEEN = 9  # errors a worker before the job gives up; a single shard gets fewer attempts by default


class Scheduler:
    """Hands shards to workers, largest first, until every shard is committed or has failed for good.

    One thread, the driver's, runs all methods and touches all state. Commits alone run in threads of their own, since
    they wait for a store: `_commits` maps the future of each to its event, and `_committed` is the queue by which a
    finished one comes back to the driver's thread.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        pool: Pool,
        config: ExecutionConfig,
        stop: threading.Event,
        observer: Observer | None = None,
    ) -> None:
        self._run_dir = run_dir
        self._pool = pool
        self._config = config
        self._stop = stop
        self._observer = observer or Observer()
        self._start_failures: Counter[str] = Counter()
        self._unforeseen, self._finished = 0, False
        self._failed_before: frozenset[int] = frozenset()
        self._attempts: Counter[int] = Counter()
        self._running: dict[str, tuple[Task, float]] = {}  # attempt -> (task, its start in monotonic seconds)
        self._killed: set[str] = set()
        self._queue: list[tuple[float, int, int, Shard]] = []  # a heap of (due at, -size, id, shard)
        self._commits: dict[Future[bool], Finished] = {}
        self._committed: SimpleQueue[Future[bool]] = SimpleQueue()
        self._facts: WorkerFacts | None = None
        self._fingerprint = ""
        self._generation_of: Callable[[int], int] = lambda shard_id: 0
        self._tally = Tally(shards_total=0, shards_committed=0)
        self._ticked_at = self._listed_at = -float("inf")

    def first_worker(self) -> WorkerFacts:
        """Start the pool and wait for the first worker; its facts describe the run's table.

        Raises WorkersUnavailable when no worker can be started, and Interrupted when a stop is requested.
        """
        self._pool.start()
        while self._facts is None:
            self._refuse_if_stopped()
            for event in self._pool.poll(_POLL_SECONDS):
                self._handle_worker(event)
        return self._facts

    def run(
        self,
        shards: Iterable[Shard],
        fingerprint: str,
        tally: Tally,
        generation_of: Callable[[int], int] = lambda shard_id: 0,
    ) -> None:
        """Process `shards`; returns when each is committed or recorded as failed. `tally` is kept up to date.

        `generation_of` names the generation that added a shard, for its commit record.

        Raises Interrupted once a requested stop has let the running shards finish, WorkersUnavailable when no worker
        can be started or none gets through a shard, and StorageFull when the run's file system is full.
        """
        self._fingerprint, self._tally, self._generation_of = fingerprint, tally, generation_of
        self._failed_before = frozenset(self._run_dir.failed_ids())
        # All are due at once. Largest first: a large shard that starts last would run alone at the end.
        self._queue = [(0.0, -shard.size, shard.id, shard) for shard in shards]
        heapq.heapify(self._queue)
        with ThreadPoolExecutor(_COMMIT_THREADS, thread_name_prefix="commit") as committing:
            while self._running or self._commits or (self._queue and not self._stop.is_set()):
                self._hand_out()
                for event in self._next_events():
                    self._handle(event, committing)
                self._finish_commits()
                self._kill_stuck()
                self._tick(_POLL_SECONDS)
        self._tick(0.0)
        if self._queue:
            self._refuse_if_stopped(tally)

    def _hand_out(self) -> None:
        now = time.monotonic()
        held_back = self._stop.is_set() or len(self._commits) >= _MAX_WAITING_COMMITS
        idle = 0 if held_back else self._pool.idle()
        while idle > 0 and self._queue and self._queue[0][0] <= now:
            *_, shard = heapq.heappop(self._queue)
            task = Task(
                shard=shard,
                attempt=new_attempt(),
                run_fingerprint=self._fingerprint,
                max_seconds=self._config.max_shard_seconds,
                generation=self._generation_of(shard.id),
            )
            self._running[task.attempt] = (task, now)
            self._pool.submit(task)
            self._observer.began(task)
            idle -= 1

    def _next_events(self) -> list[Event]:
        # While only commits are left, `_finish_commits` waits instead.
        return self._pool.poll(0.0 if self._commits and not self._running else _POLL_SECONDS)

    def _handle(self, event: Event, committing: ThreadPoolExecutor) -> None:
        match event:
            case Finished(task=task, record=record):
                self._finished = True
                del self._running[task.attempt]
                self._killed.discard(task.attempt)
                future = committing.submit(self._commit, record)
                self._commits[future] = event
                future.add_done_callback(self._committed.put)
            case Failed():
                del self._running[event.task.attempt]
                self._killed.discard(event.task.attempt)
                self._handle_failure(event)
                self._refuse_if_nothing_works(event)
            case _:
                self._handle_worker(event)

    def _commit(self, record: CommitRecord) -> bool:
        """Commit a shard, in a commit thread; False when another driver of this run was first.

        Then that driver's files count, and those of this record are removed.
        """
        first = self._run_dir.commit(record)
        if not first:
            self._run_dir.discard(record)
        self._run_dir.clear_failure(record.shard_id)
        return first

    def _finish_commits(self) -> None:
        with contextlib.suppress(Empty):
            while self._commits:
                waits = len(self._commits) >= _MAX_WAITING_COMMITS or not self._running
                future = self._committed.get(timeout=_POLL_SECONDS if waits else 0.0)
                self._finish_commit(self._commits.pop(future), future)

    def _finish_commit(self, event: Finished, future: Future[bool]) -> None:
        error = future.exception()
        if isinstance(error, ShardError) or (error is not None and isinstance(error, remote_errors())):
            # The commit may exist although its answer was lost. Then the next attempt's commit fails as the second one,
            # and its files are removed.
            sentence = f"{event.task.shard.url}: its files were written, but not committed: {error}"
            self._handle_failure(Failed(task=event.task, kind="error", error=sentence))
            return
        first = future.result()
        if first:
            self._tally.add(event.record)
            self._observer.committed(event.task, event.record)
        else:
            self._tally.shards_committed += 1
            self._observer.superseded(event.task)
            self._skip_what_others_committed()

    def _skip_what_others_committed(self) -> None:
        """Take out of the queue what another driver of this run has committed; at most every ten seconds."""
        if time.monotonic() - self._listed_at < _LISTING_SECONDS:
            return
        committed = self._run_dir.committed_ids()
        queued = [entry for entry in self._queue if entry[3].id not in committed]
        self._tally.shards_committed += len(self._queue) - len(queued)
        self._queue = queued
        heapq.heapify(self._queue)
        self._listed_at = time.monotonic()

    def _handle_failure(self, event: Failed) -> None:
        shard = event.task.shard
        # A lost node says nothing of the shard. A lost worker does, if its process had begun the attempt.
        counts = event.kind in ("error", "timeout") or (
            event.kind == "worker_lost" and self._run_dir.attempt_began(shard.id, event.task.attempt)
        )
        self._attempts[shard.id] += counts
        tried = self._attempts[shard.id]
        if tried < self._config.max_attempts:
            self._tally.retries[event.kind] += 1
            self._observer.retry(event, tried)
            # The pause doubles with each attempt, and is drawn at random from half to one and a half of that, so that
            # shards which a busy store refused together do not come back together.
            pause = min(_LONGEST_BACKOFF_SECONDS, _BACKOFF_SECONDS * 2 ** min(tried - 1, 30))
            delay = pause * _jitter.uniform(0.5, 1.5) if counts else 0.0
            heapq.heappush(self._queue, (time.monotonic() + delay, -shard.size, shard.id, shard))
            return
        self._tally.failed += 1
        failure = FailureRecord(
            shard_id=shard.id,
            url=shard.url,
            attempts=tried,
            kind=event.kind,
            error=event.error,
            traceback=event.traceback,
        )
        self._run_dir.record_failure(failure)
        self._observer.gave_up(event.task, failure)

    def _refuse_if_nothing_works(self, event: Failed) -> None:
        """End the job when every worker has failed with unforeseen errors several times and no shard was finished.

        Otherwise a broken installation would use up the attempts of every shard. Failures of shards that an earlier job
        gave up are left out: the shard may be the cause, and it is recorded as failed already.
        """
        self._unforeseen += event.unforeseen and event.task.shard.id not in self._failed_before
        if not self._finished and self._unforeseen >= _MAX_UNFORESEEN * max(1, self._pool.live()):
            raise WorkersUnavailable(
                f"no worker got through a shard in {self._unforeseen} attempts; the last error: {event.error}"
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
            self._observer.worker_ready(event)
        elif isinstance(event, StartFailed):
            self._observer.worker_failed(event)
            self._start_failures[event.worker] += 1
            if self._start_failures[event.worker] <= self._config.max_init_failures:
                self._pool.restart(event.worker)
            elif self._pool.live() == 0:
                raise WorkersUnavailable(f"no worker could be started; the last error: {event.error}")

    def _kill_stuck(self) -> None:
        """Kill the workers whose attempts have been silent for the time limit and did not end by themselves."""
        latest = time.monotonic() - self._config.max_shard_seconds - _KILL_GRACE_SECONDS
        for attempt, (task, started) in self._running.items():
            if started >= latest:
                break  # attempts stand in the order of their starts, so that all that follow are younger
            if attempt not in self._killed and self._pool.progressed_at(task) < latest:
                self._killed.add(attempt)
                self._pool.kill(task)

    def _tick(self, interval: float) -> None:
        if time.monotonic() - self._ticked_at < interval:
            return
        tally = self._tally
        tally.queued, tally.running = len(self._queue), len(self._running)
        tally.samples_running = self._pool.progress()
        tally.workers, tally.workers_ready = self._pool.live(), self._pool.ready()
        self._pool.publish(tally)
        self._observer.tick(tally)
        self._ticked_at = time.monotonic()

    def _refuse_if_stopped(self, tally: Tally | None = None) -> None:
        if self._stop.is_set():
            done = f" after {tally.shards_committed} of {tally.shards_total} shards" if tally else " before it began"
            raise Interrupted(f"stopped by a signal{done}; the same command goes on from there")
