"""The worker in this process: time limits are told apart from errors, and cost nobody else anything."""

import threading
from concurrent.futures import wait

import pytest

from clipaudit.config import ExecutionConfig, JobConfig, ModelConfig
from clipaudit.errors import RunInvalid, ShardTooSlow
from clipaudit.job.driver import Reporter, run_job
from clipaudit.job.engine_local import LocalPool
from clipaudit.job.protocol import Finished, Task
from clipaudit.run.directory import RunDirectory
from clipaudit.schema import Shard
from tests.make_shards import write_photos


def config_for(tmp_path, model, **execution):
    execution = ExecutionConfig(engine="local", **execution)
    files = {"shards": (f"{tmp_path}/*.tar",), "out": str(tmp_path / "run")}
    return JobConfig(**files, model=ModelConfig(name=model), execution=execution)


def test_an_attempt_that_takes_too_long_is_recorded_as_such(tmp_path, tiny_model):
    write_photos(tmp_path / "a.tar", 3)
    config = config_for(tmp_path, tiny_model, max_shard_seconds=1e-9, max_attempts=1)
    with pytest.raises(RunInvalid):
        run_job(config, LocalPool(config), Reporter(), threading.Event())
    failure = RunDirectory(config.out).failures()[0]
    assert failure.kind == "timeout"
    assert "a.tar: given up after" in failure.error


def test_a_driver_with_nothing_to_do_does_not_spin(tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr("clipaudit.job.engine_local.time.sleep", slept.append)
    pool = LocalPool(config_for(tmp_path, "none"))
    assert pool.poll(0.5) == []
    assert slept == [0.5]
    pool.close()


class Quick:
    """Does each task at once, unless it is told to give up."""

    def __init__(self, cancel):
        self.cancel = cancel

    def process(self, task):
        if self.cancel.is_set():
            raise ShardTooSlow("given up")
        return task.attempt


def test_a_task_that_ended_as_it_was_to_be_killed_does_not_end_the_next(tmp_path):
    pool = LocalPool(config_for(tmp_path, "none"))
    pool._worker = Quick(pool._cancel)
    for attempt in ("one", "two"):
        shard = Shard(id=0, url="/s.tar", size=1, etag="e")
        task = Task(shard=shard, attempt=attempt, run_fingerprint="f", max_seconds=1.0)
        pool.submit(task)
        wait([pool._future])
        pool.kill(task)  # the driver's clock says so, and the news of the end is on its way
        assert pool.poll(1.0) == [Finished(task=task, record=attempt)]
    pool.close()
