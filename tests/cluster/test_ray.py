"""The pool on Ray: the same vectors as without it, and workers that die in every way."""

import os
import shutil
import signal
import tempfile
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import ray

from clipaudit import cluster
from clipaudit.config import AuditConfig, ExecutionConfig, FieldsConfig, ModelConfig
from clipaudit.errors import RunInvalid, UsageError, WorkersUnavailable
from clipaudit.local import LocalPool
from clipaudit.run import Run
from clipaudit.stages import audit
from tests.make_shards import write_photos

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*", "ignore::FutureWarning:ray.*")


@pytest.fixture(scope="module", autouse=True)
def _ray():
    """A cluster of this module's own, in a short directory (Ray's sockets allow about 100 characters)."""
    directory = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=directory)
    yield
    ray.shutdown()
    shutil.rmtree(directory, ignore_errors=True)


class Quiet:
    """A reporter that keeps what it is told."""

    def __init__(self, on_tick=lambda tally: None):
        self.retries, self.on_tick = [], on_tick

    def found(self, shards, committed):
        pass

    def plan(self, plan):
        self.plan = plan

    def tick(self, tally):
        self.on_tick(tally)

    def retry(self, failed, counted):
        self.retries.append(failed)

    def done(self, status):
        self.status = status


def config_for(tmp_path, model, out="run", **execution):
    execution = {"workers": 1, "cpus_per_worker": 1.0, **execution}
    return AuditConfig(
        shards=(f"{tmp_path}/s-*.tar",),
        out=str(tmp_path / out),
        model=ModelConfig(name=model),
        fields=FieldsConfig(label="cls", attributes=("json:place",)),
        execution=ExecutionConfig(**execution),
    )


def run_ray(config, reporter=None):
    return audit(config, cluster.RayPool(config), reporter or Quiet(), threading.Event())


def make_shards(tmp_path, shards=4, images=12):
    for number in range(shards):
        write_photos(tmp_path / f"s-{number:02d}.tar", images, prefix=f"p{number}")


def identities(path):
    rows = Run(str(path)).table(["shard_id", "key", "status"]).to_pylist()
    return [(row["shard_id"], row["key"]) for row in rows if row["status"] == "ok"]


def ulps(a, b):
    """Distance of float16 numbers in units in the last place."""
    ordered = [np.where(x.view(np.int16) < 0, -32768 - x.view(np.int16).astype(int), x.view(np.int16)) for x in (a, b)]
    return np.abs(ordered[0].astype(int) - ordered[1].astype(int))


def test_ray_gives_the_vectors_of_the_local_engine(tmp_path, tiny_model):
    make_shards(tmp_path)
    run_ray(config_for(tmp_path, tiny_model, workers=2))
    local = config_for(tmp_path, tiny_model, out="local", engine="local")
    audit(local, LocalPool(local), Quiet(), threading.Event())
    ours, theirs = Run(str(tmp_path / "run")), Run(str(tmp_path / "local"))
    assert identities(tmp_path / "run") == identities(tmp_path / "local")
    for name in ours.head_labels:
        a, b = (run.heads(name).values.astype(np.float16) for run in (ours, theirs))
        # numbers below 1e-4 are subnormal or nearly so: their last place is finer than float32's own rounding
        assert np.all((ulps(a, b) <= 1) | (np.abs(a.astype(float) - b) < 1e-6))


class KilledOnce(cluster._Actor):
    """Is killed in the middle of the first shard that any worker of the run begins."""

    def process(self, task):
        decompose, batches = self._worker._decompose, []

        def decompose_or_die(samples):
            batches.append(samples)
            if len(batches) == 3 and self._worker._run_dir.storage.create("killed", b""):
                os.kill(os.getpid(), signal.SIGKILL)
            return decompose(samples)

        self._worker._decompose = decompose_or_die
        try:
            return super().process(task)
        finally:
            self._worker._decompose = decompose


def test_a_worker_killed_in_mid_shard_loses_nothing(tmp_path, tiny_model, monkeypatch):
    make_shards(tmp_path, shards=3, images=40)
    monkeypatch.setattr(cluster, "_Actor", KilledOnce)
    reporter = Quiet()
    status = run_ray(
        replace(config_for(tmp_path, tiny_model), model=ModelConfig(name=tiny_model, batch_size=8)), reporter
    )
    assert (tmp_path / "run/killed").exists()
    assert [failed.kind for failed in reporter.retries] == ["worker_lost"]
    rows = identities(tmp_path / "run")
    assert len(rows) == len(set(rows)) == 120
    assert status.failed == 0
    assert len(list((tmp_path / "run/projections").iterdir())) == 4, "the killed attempt's file is an orphan for gc"


class DiesAtStart(cluster._Actor):
    def start(self):
        os._exit(1)


class RaisesAtStart(cluster._Actor):
    def start(self):
        raise MemoryError("no room for the model")


class Poisoned(cluster._Actor):
    """Dies on one shard, whoever tries it, after the attempt began."""

    def process(self, task):
        if task.shard.url.endswith("s-01.tar"):
            self._worker._run_dir.begin_attempt(task.shard.id, task.attempt)
            os._exit(1)
        return super().process(task)


class HangsOnce(cluster._Actor):
    """Hangs on the first attempt at a shard."""

    def process(self, task):
        if task.shard.url.endswith("s-00.tar") and self._worker._run_dir.attempts(task.shard.id) == []:
            self._worker._run_dir.begin_attempt(task.shard.id, task.attempt)
            time.sleep(600)
        return super().process(task)


@pytest.mark.parametrize(
    ("actor", "words"), [(DiesAtStart, "the process died"), (RaisesAtStart, "no room for the model")]
)
def test_workers_that_cannot_start_end_the_job_with_the_reason(tmp_path, tiny_model, monkeypatch, actor, words):
    make_shards(tmp_path, shards=1)
    monkeypatch.setattr(cluster, "_Actor", actor)
    with pytest.raises(WorkersUnavailable, match=words):
        run_ray(config_for(tmp_path, tiny_model, max_init_failures=1))
    assert not (tmp_path / "run").exists()


def test_a_poison_shard_costs_only_itself(tmp_path, tiny_model, monkeypatch):
    make_shards(tmp_path, shards=3)
    monkeypatch.setattr(cluster, "_Actor", Poisoned)
    monkeypatch.setattr("clipaudit.scheduler._BACKOFF_SECONDS", 0.0)
    with pytest.raises(RunInvalid, match="1 of 3 shards failed"):
        run_ray(config_for(tmp_path, tiny_model, max_attempts=2))
    assert sorted({shard for shard, _ in identities(tmp_path / "run")}) == [0, 2]
    assert (tmp_path / "run/_failed/000001.json").exists()


def test_a_worker_that_hangs_is_killed_and_its_shard_done_again(tmp_path, tiny_model, monkeypatch):
    make_shards(tmp_path, shards=2)
    monkeypatch.setattr(cluster, "_Actor", HangsOnce)
    monkeypatch.setattr("clipaudit.scheduler._KILL_GRACE_SECONDS", 0.0)
    reporter = Quiet()
    run_ray(config_for(tmp_path, tiny_model, max_shard_seconds=4.0), reporter)
    assert [failed.kind for failed in reporter.retries] == ["timeout"]
    assert len(identities(tmp_path / "run")) == 24


def test_a_users_mistake_in_a_worker_ends_the_job_at_once(tmp_path, tiny_model):
    make_shards(tmp_path, shards=1)
    config = config_for(tmp_path, "ViT-Q-99")
    with pytest.raises(UsageError, match="ViT-Q-99"):
        run_ray(config)


@pytest.mark.parametrize(
    ("resources", "execution", "device", "expected"),
    [
        ({"CPU": 2}, {}, "auto", (1, 2, 0)),
        ({"CPU": 16}, {}, "auto", (4, 4, 0)),
        ({"CPU": 16}, {"workers": 2}, "auto", (2, 4, 0)),
        ({"CPU": 2}, {"workers": 2}, "auto", (2, 1, 0)),
        ({"CPU": 16, "GPU": 2}, {}, "auto", (2, 4, 1)),
        ({"CPU": 16, "GPU": 2}, {"gpus_per_worker": 0.5}, "cuda", (4, 4, 0.5)),
        ({"CPU": 16, "GPU": 2}, {}, "cpu", (4, 4, 0)),
        ({}, {"workers": 3, "gpus_per_worker": 1.0}, "auto", (3, 1, 1)),
    ],
)
def test_workers_are_sized_to_the_cluster(resources, execution, device, expected):
    config = AuditConfig(
        shards=("a",), out="b", model=ModelConfig(device=device), execution=ExecutionConfig(**execution)
    )
    assert cluster.workers_and_resources(config, resources) == expected


def test_an_empty_cluster_needs_to_be_told_how_many_workers():
    with pytest.raises(UsageError, match="--workers"):
        cluster.workers_and_resources(AuditConfig(shards=("a",), out="b"), {})
