"""The driver's queue, against a pool whose failures are scripted."""

import threading
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipaudit.config import ExecutionConfig
from clipaudit.errors import Interrupted, RunMismatch, WorkersUnavailable
from clipaudit.scheduler import Scheduler, Tally
from clipaudit.schema import Shard, TableSpec
from clipaudit.tasks import Failed, Finished, Ready, StartFailed, Task, WorkerFacts


class FakeRecord:
    def __init__(self, task):
        self.shard_id, self.attempt, self.rows = task.shard.id, task.attempt, 10


class FakeRunDirectory:
    """Commits in memory; `taken` are shards that another driver committed first."""

    def __init__(self, taken=(), began=True):
        self.committed, self.failures, self.discarded, self.taken, self.began = {}, {}, [], set(taken), began

    def commit(self, record):
        assert record.shard_id not in self.committed, "committed twice"
        if record.shard_id in self.taken:
            return False
        self.committed[record.shard_id] = record
        return True

    def discard(self, record):
        self.discarded.append(record.shard_id)

    def clear_failure(self, shard_id):
        self.failures.pop(shard_id, None)

    def record_failure(self, failure):
        self.failures[failure.shard_id] = failure

    def attempt_began(self, shard_id, attempt):
        return self.began


class FakePool:
    """`script[shard id]` holds the kinds of failure of its first attempts; later attempts succeed."""

    def __init__(self, script=None, workers=2, start_failures=0, weights=("w",)):
        self.script = defaultdict(list, {k: list(v) for k, v in (script or {}).items()})
        self.workers, self.events, self.order, self.busy = workers, [], [], 0
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

    def idle(self):
        return self.workers - self.busy

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
            self.events.append(Finished(task=task, record=FakeRecord(task)))

    def kill(self, task):
        self.killed.append(task.shard.id)
        self.events.append(Failed(task=self.stuck.pop(task.attempt), kind="timeout", error="too slow"))

    def poll(self, timeout):
        events, self.events = self.events, []
        self.busy -= sum(isinstance(event, Finished | Failed) for event in events)
        return events

    def progress(self):
        return 0

    def close(self):
        self.closed = True


def shards(*sizes):
    return [Shard(id=i, url=f"/s{i}.tar", size=size, etag="e") for i, size in enumerate(sizes)]


def run(pool, todo, run_dir=None, stop=None, monkeypatch=None, **config):
    run_dir = run_dir or FakeRunDirectory()
    scheduler = Scheduler(run_dir, pool, ExecutionConfig(**config), stop or threading.Event())
    scheduler.first_worker()
    tally = Tally(shards_total=len(todo), shards_committed=0)
    scheduler.run(todo, "fingerprint", tally)
    return run_dir, tally


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr("clipaudit.scheduler._BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr("clipaudit.scheduler._POLL_SECONDS", 0.0)


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
    assert run_dir.failures[1].attempts == 3
    assert run_dir.failures[1].error == "boom"
    assert tally.failed == 1


def test_losing_a_node_never_counts_as_an_attempt():
    run_dir, _ = run(FakePool({0: ["node_lost"] * 20}), shards(1), max_attempts=1)
    assert set(run_dir.committed) == {0}


@pytest.mark.parametrize(("began", "committed"), [(False, {0}), (True, set())])
def test_a_lost_worker_counts_only_if_its_attempt_had_begun(began, committed):
    run_dir, _ = run(FakePool({0: ["worker_lost"] * 4}), shards(1), FakeRunDirectory(began=began), max_attempts=2)
    assert set(run_dir.committed) == committed


def test_a_stuck_shard_is_killed_once_and_tried_again(monkeypatch):
    monkeypatch.setattr("clipaudit.scheduler._KILL_GRACE_SECONDS", -1.0)
    pool = FakePool({0: ["stuck"]})
    run_dir, _ = run(pool, shards(1), max_shard_seconds=0.5)
    assert pool.killed == [0]
    assert set(run_dir.committed) == {0}


def test_the_second_of_two_drivers_discards_its_files():
    run_dir, tally = run(FakePool(), shards(1, 1), FakeRunDirectory(taken=[1]))
    assert run_dir.discarded == [1]
    assert [record.shard_id for record in tally.records] == [0]
    assert tally.shards_committed == 2


def test_a_success_clears_the_failure_of_an_earlier_job():
    run_dir = FakeRunDirectory()
    run_dir.failures[0] = "old"
    run(FakePool(), shards(1), run_dir)
    assert run_dir.failures == {}


def test_a_few_failed_starts_are_forgiven():
    run_dir, _ = run(FakePool(workers=1, start_failures=3), shards(1))
    assert set(run_dir.committed) == {0}


def test_no_worker_at_all_ends_the_job_with_the_last_reason():
    with pytest.raises(WorkersUnavailable, match="no memory"):
        run(FakePool(workers=1, start_failures=100), shards(1))


def test_workers_with_other_weights_are_refused():
    with pytest.raises(RunMismatch, match="other weights"):
        run(FakePool(workers=2, weights=("a", "b")), shards(1))


def test_a_stop_lets_running_shards_finish_and_hands_out_no_more():
    stop = threading.Event()
    pool = FakePool(workers=1)
    run_dir = FakeRunDirectory()
    scheduler = Scheduler(run_dir, pool, ExecutionConfig(), stop, on_tick=lambda tally: stop.set())
    scheduler.first_worker()
    with pytest.raises(Interrupted, match="after 1 of 3 shards"):
        scheduler.run(shards(1, 1, 1), "f", Tally(shards_total=3, shards_committed=0))
    assert len(run_dir.committed) == 1


def test_a_stop_after_the_last_shard_was_handed_out_is_no_interruption():
    stop = threading.Event()
    run_dir = FakeRunDirectory()
    scheduler = Scheduler(run_dir, FakePool(workers=1), ExecutionConfig(), stop, on_tick=lambda tally: stop.set())
    scheduler.first_worker()
    scheduler.run(shards(1), "f", Tally(shards_total=1, shards_committed=0))
    assert set(run_dir.committed) == {0}


KINDS = st.lists(st.sampled_from(["error", "timeout", "worker_lost", "node_lost"]), max_size=6)


@settings(max_examples=60, deadline=None)
@given(script=st.dictionaries(st.integers(0, 7), KINDS, max_size=8), workers=st.integers(1, 4))
def test_every_shard_is_committed_once_or_recorded_as_failed(script, workers):
    run_dir, tally = run(FakePool(script, workers=workers), shards(*range(1, 9)), max_attempts=3)
    failed = {shard for shard, kinds in script.items() if sum(kind != "node_lost" for kind in kinds) >= 3}
    assert set(run_dir.failures) == failed
    assert set(run_dir.committed) == set(range(8)) - failed
    assert tally.failed == len(failed)
