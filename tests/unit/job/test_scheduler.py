"""The driver's queue, against a pool whose failures are scripted."""

import threading
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipaudit.config import ExecutionConfig
from clipaudit.errors import Interrupted, RunMismatch, StorageFull, WorkersUnavailable
from clipaudit.job.progress import Rate, Tally, bottleneck, shares
from clipaudit.job.protocol import Failed, Finished, Observer, Ready, StartFailed, Task, WorkerFacts
from clipaudit.job.scheduler import Scheduler
from clipaudit.run.records import CommitRecord
from clipaudit.schema import Shard, TableSpec


def record_of(task):
    return CommitRecord(
        shard_id=task.shard.id,
        url=task.shard.url,
        attempt=task.attempt,
        files={},
        rows=10,
        ok=9,
        skipped={"undecodable": 1},
        input_size=task.shard.size,
        bytes_good=task.shard.size,
        timings={"model": 1.5, "total": 2.0},
    )


class FakeRunDirectory:
    """Commits in memory; `taken` are shards that another driver committed first, `stubborn` fails that many commits."""

    def __init__(self, taken=(), began=True, stubborn=0):
        self.committed, self.failed, self.discarded, self.taken, self.began = {}, {}, [], set(taken), began
        self.stubborn = stubborn

    def committed_ids(self):
        return {*self.committed, *self.taken}

    def commit(self, record):
        assert record.shard_id not in self.committed, "committed twice"
        if self.stubborn > 0:
            self.stubborn -= 1
            raise TimeoutError("the store did not answer")
        if record.shard_id in self.taken:
            return False
        self.committed[record.shard_id] = record
        return True

    def discard(self, record):
        self.discarded.append(record.shard_id)

    def clear_failure(self, shard_id):
        self.failed.pop(shard_id, None)

    def record_failure(self, failure):
        self.failed[failure.shard_id] = failure

    def failed_ids(self):
        return set(self.failed)

    def attempt_began(self, shard_id, attempt):
        return self.began


class FakePool:
    """`script[shard id]` holds the kinds of failure of its first attempts; later attempts succeed."""

    def __init__(self, script=None, workers=2, start_failures=0, weights=("w",)):
        self.script = defaultdict(list, {k: list(v) for k, v in (script or {}).items()})
        self.workers, self.events, self.order, self.busy = workers, [], [], 0
        self.progressed = 0.0
        self.start_failures, self.weights, self.closed, self.killed, self.stuck = start_failures, weights, False, [], {}

    def start(self):
        for number in range(self.workers):
            self.restart(f"w{number}")

    def restart(self, worker):
        if self.start_failures > 0:
            self.start_failures -= 1
            self.events.append(StartFailed(worker=worker, error="no memory", traceback=""))
        else:
            weights = self.weights[int(worker[1:]) % len(self.weights)]
            facts = WorkerFacts(
                model={"fingerprint": weights},
                table=TableSpec(heads=(), head_dim=1, embed_dim=1),
                host="h",
                device="cpu",
            )
            self.events.append(Ready(worker=worker, facts=facts))

    def live(self):
        return 0 if self.start_failures else self.workers

    def ready(self):
        return self.workers

    def idle(self):
        return self.workers - self.busy

    def publish(self, tally):
        self.published = tally

    def submit(self, task: Task):
        assert self.busy < self.workers
        self.busy += 1
        self.order.append(task.shard.id)
        kinds = self.script[task.shard.id]
        if kinds and kinds[0] == "stuck":
            self.stuck[task.attempt] = task
            kinds.pop(0)
            return
        if kinds:
            self.events.append(Failed(task=task, kind=kinds.pop(0), error="boom"))
        else:
            self.events.append(Finished(task=task, record=record_of(task)))

    def kill(self, task):
        self.killed.append(task.shard.id)
        self.events.append(Failed(task=self.stuck.pop(task.attempt), kind="timeout", error="too slow"))

    def poll(self, timeout):
        events, self.events = self.events, []
        self.busy -= sum(isinstance(event, Finished | Failed) for event in events)
        return events

    def progress(self):
        return 0

    def progressed_at(self, task):
        return self.progressed

    def close(self):
        self.closed = True


def shards(*sizes):
    return [Shard(id=i, url=f"/s{i}.tar", size=size, etag="e") for i, size in enumerate(sizes)]


def run(pool, todo, run_dir=None, stop=None, observer=None, **config):
    run_dir = run_dir or FakeRunDirectory()
    scheduler = Scheduler(run_dir, pool, ExecutionConfig(**config), stop or threading.Event(), observer)
    scheduler.first_worker()
    tally = Tally(shards_total=len(todo), shards_committed=0)
    scheduler.run(todo, "fingerprint", tally)
    return run_dir, tally


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr("clipaudit.job.scheduler._BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr("clipaudit.job.scheduler._POLL_SECONDS", 0.0)


def test_largest_shards_go_first():
    pool = FakePool(workers=1)
    run_dir, tally = run(pool, shards(5, 50, 20))
    assert pool.order == [1, 2, 0]
    assert set(run_dir.committed) == {0, 1, 2}
    assert tally.shards_committed == 3
    assert tally.samples == 30


def test_an_error_is_tried_again_and_recorded_after_the_last_attempt():
    run_dir, tally = run(FakePool({0: ["error"] * 2, 1: ["error"] * 3}), shards(1, 1), max_attempts=3)
    assert set(run_dir.committed) == {0}
    assert run_dir.failed[1].attempts == 3
    assert run_dir.failed[1].error == "boom"
    assert tally.failed == 1


def test_pauses_between_attempts_stay_within_minutes(monkeypatch):
    monkeypatch.setattr("clipaudit.job.scheduler._BACKOFF_SECONDS", 2.0)
    monkeypatch.setattr("clipaudit.job.scheduler._LONGEST_BACKOFF_SECONDS", 0.0)
    run_dir, tally = run(FakePool({0: ["error"] * 1999}), shards(1), max_attempts=2000)
    assert set(run_dir.committed) == {0}
    assert tally.retries == {"error": 1999}


def test_losing_a_node_never_counts_as_an_attempt():
    run_dir, _ = run(FakePool({0: ["node_lost"] * 20}), shards(1), max_attempts=1)
    assert set(run_dir.committed) == {0}


@pytest.mark.parametrize(("began", "committed"), [(False, {0}), (True, set())])
def test_a_lost_worker_counts_only_if_its_attempt_had_begun(began, committed):
    run_dir, _ = run(FakePool({0: ["worker_lost"] * 4}), shards(1), FakeRunDirectory(began=began), max_attempts=2)
    assert set(run_dir.committed) == committed


def test_a_stuck_shard_is_killed_once_and_tried_again(monkeypatch):
    monkeypatch.setattr("clipaudit.job.scheduler._KILL_GRACE_SECONDS", -1.0)
    pool = FakePool({0: ["stuck"]})
    run_dir, _ = run(pool, shards(1), max_shard_seconds=0.5)
    assert pool.killed == [0]
    assert set(run_dir.committed) == {0}


def test_a_slow_shard_that_makes_progress_is_not_killed(monkeypatch):
    monkeypatch.setattr("clipaudit.job.scheduler._KILL_GRACE_SECONDS", -1.0)
    pool = FakePool({0: ["stuck"]})
    real, polls = pool.poll, []

    def poll(timeout):
        polls.append(timeout)
        pool.progressed = float("inf") if len(polls) < 20 else 0.0  # then it falls silent
        return real(timeout)

    pool.poll = poll
    run(pool, shards(1), max_shard_seconds=0.5)
    assert pool.killed == [0]
    assert len(polls) >= 20


def test_the_second_of_two_drivers_discards_its_files():
    run_dir, tally = run(FakePool(), shards(1, 1), FakeRunDirectory(taken=[1]))
    assert run_dir.discarded == [1]
    assert (tally.shards_committed, tally.rows) == (2, 10), "the other driver's shard is done, but not by this job"


def test_a_success_clears_the_failure_of_an_earlier_job():
    run_dir = FakeRunDirectory()
    run_dir.failed[0] = "old"
    run(FakePool(), shards(1), run_dir)
    assert run_dir.failed == {}


def test_a_few_failed_starts_are_forgiven():
    run_dir, _ = run(FakePool(workers=1, start_failures=3), shards(1))
    assert set(run_dir.committed) == {0}


def test_no_worker_at_all_ends_the_job_with_the_last_reason():
    with pytest.raises(WorkersUnavailable, match="no memory"):
        run(FakePool(workers=1, start_failures=100), shards(1))


def test_workers_with_other_weights_are_refused():
    with pytest.raises(RunMismatch, match="other weights"):
        run(FakePool(workers=2, weights=("a", "b")), shards(1))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_job_in_which_nothing_works_ends_before_it_has_spoilt_every_shard(workers):
    class Broken(FakePool):
        def submit(self, task):
            super().submit(task)
            self.events[-1] = replace(self.events[-1], unforeseen=True)

    pool = Broken({n: ["error"] * 3 for n in range(100)}, workers=workers)
    run_dir = FakeRunDirectory()
    with pytest.raises(WorkersUnavailable, match=rf"no worker got through a shard in {9 * workers} attempts.*boom"):
        run(pool, shards(*[1] * 100), run_dir)
    assert len(run_dir.failed) <= 9 * workers // 3


def test_an_error_that_nobody_foresaw_ends_no_job_in_which_something_works():
    class Poisoned(FakePool):
        def submit(self, task):
            super().submit(task)
            if isinstance(self.events[-1], Failed):
                self.events[-1] = replace(self.events[-1], unforeseen=True)

    run_dir, _ = run(Poisoned({n: ["error"] * 3 for n in range(1, 20)}, workers=1), shards(9, *[1] * 20))
    assert set(run_dir.committed) == {0, 20}
    assert set(run_dir.failed) == set(range(1, 20))
    # the same command again, with those alone: they fail as before, so that a job which allows for them can end
    left = [shard for shard in shards(9, *[1] * 20) if shard.id in run_dir.failed_ids()]
    _, tally = run(Poisoned({n: ["error"] * 3 for n in range(1, 20)}, workers=1), left, run_dir)
    assert tally.failed == 19


class StopsAtOnce(Observer):
    def __init__(self, stop):
        self.stop = stop

    def tick(self, tally):
        self.stop.set()


def test_a_stop_lets_running_shards_finish_and_hands_out_no_more():
    stop = threading.Event()
    pool = FakePool(workers=1)
    run_dir = FakeRunDirectory()
    scheduler = Scheduler(run_dir, pool, ExecutionConfig(), stop, StopsAtOnce(stop))
    scheduler.first_worker()
    with pytest.raises(Interrupted, match="after 1 of 3 shards"):
        scheduler.run(shards(1, 1, 1), "f", Tally(shards_total=3, shards_committed=0))
    assert len(run_dir.committed) == 1


def test_a_stop_after_the_last_shard_was_handed_out_is_no_interruption():
    stop = threading.Event()
    run_dir = FakeRunDirectory()
    scheduler = Scheduler(run_dir, FakePool(workers=1), ExecutionConfig(), stop, StopsAtOnce(stop))
    scheduler.first_worker()
    scheduler.run(shards(1), "f", Tally(shards_total=1, shards_committed=0))
    assert set(run_dir.committed) == {0}


def test_what_another_driver_committed_is_not_done_again():
    class Patient(FakePool, Observer):
        """Takes nothing between its first shard and the news that somebody else had it already."""

        told = False

        def idle(self):
            return super().idle() if self.told or not self.order else 0

        def superseded(self, task):
            self.told = True

    pool = Patient(workers=1)
    _, tally = run(pool, shards(9, 1, 1, 1), FakeRunDirectory(taken=[0, 1, 2]), observer=pool)
    assert pool.order == [0, 3]
    assert tally.shards_committed == 4


def test_a_commit_that_does_not_arrive_costs_an_attempt_and_no_shard():
    run_dir, tally = run(FakePool(), shards(1, 1), FakeRunDirectory(stubborn=2), max_attempts=3)
    assert set(run_dir.committed) == {0, 1}
    assert tally.retries == {"error": 2}


def test_a_full_disk_at_the_commit_ends_the_job():
    class Full(FakeRunDirectory):
        def commit(self, record):
            raise StorageFull("no space left")

    with pytest.raises(StorageFull):
        run(FakePool(), shards(1, 1), Full())


class Diary(Observer):
    """Every call, as (what, shard)."""

    def __init__(self):
        self.lines, self.ticks = [], []

    def tick(self, tally):
        self.ticks.append((tally.queued, tally.running, tally.shards_committed, tally.failed))

    def worker_ready(self, ready):
        self.lines.append(("ready", ready.worker))

    def worker_failed(self, failed):
        self.lines.append(("not ready", failed.worker))

    def began(self, task):
        self.lines.append(("began", task.shard.id))

    def committed(self, task, record):
        assert task.attempt == record.attempt
        self.lines.append(("committed", task.shard.id))

    def superseded(self, task):
        self.lines.append(("superseded", task.shard.id))

    def retry(self, failed, counted):
        self.lines.append(("retry", failed.task.shard.id, counted))

    def gave_up(self, task, failure):
        self.lines.append(("gave up", failure.shard_id))


def test_an_observer_hears_of_everything_in_order():
    diary = Diary()
    script = {0: ["node_lost", "error"], 1: ["error", "error"]}
    pool = FakePool(script, workers=1, start_failures=1)
    run(pool, shards(4, 3, 2, 1), FakeRunDirectory(taken=[2]), observer=diary, max_attempts=2)
    assert diary.lines[:2] == [("not ready", "w0"), ("ready", "w0")]
    of_shard = {n: [line[0] for line in diary.lines if line[1] == n] for n in range(4)}
    assert of_shard[0] == ["began", "retry", "began", "retry", "began", "committed"]
    assert of_shard[1] == ["began", "retry", "began", "gave up"]
    assert of_shard[2] == ["began", "superseded"]
    assert of_shard[3] == ["began", "committed"]
    assert ("retry", 0, 0) in diary.lines
    assert diary.ticks[-1] == (0, 0, 3, 1)
    assert pool.published.skipped == {"undecodable": 2}


def test_rates_look_at_the_last_seconds_alone():
    rate = Rate(window_seconds=10)
    assert rate.update(0, 0) == 0
    assert rate.update(5, 100) == 20
    for second in range(6, 40):
        last = rate.update(second, 100 + second)
    assert last == pytest.approx(1)
    assert rate.update(40, 0) == 0, "a lost attempt takes its samples back: no negative speed"


def test_shares_name_the_stage_that_the_job_waits_for():
    seconds = {"read": 1.0, "decode": 2.0, "model": 9.0, "write": 0.5, "total": 10.0}
    assert shares(seconds) == {"read": 0.1, "decode": 0.2, "model": 0.9, "write": 0.05}
    assert bottleneck(seconds) == "model 90 % busy"
    assert shares({}) == {}
    assert bottleneck({}) == ""


KINDS = st.lists(st.sampled_from(["error", "timeout", "worker_lost", "node_lost"]), max_size=6)


@settings(max_examples=60, deadline=None)
@given(script=st.dictionaries(st.integers(0, 7), KINDS, max_size=8), workers=st.integers(1, 4))
def test_every_shard_is_committed_once_or_recorded_as_failed(script, workers):
    run_dir, tally = run(FakePool(script, workers=workers), shards(*range(1, 9)), max_attempts=3)
    failed = {shard for shard, kinds in script.items() if sum(kind != "node_lost" for kind in kinds) >= 3}
    assert set(run_dir.failed) == failed
    assert set(run_dir.committed) == set(range(8)) - failed
    assert tally.failed == len(failed)
