"""The pool on Ray: the same vectors as without it, and workers that die in every way."""

import os
import re
import signal
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import ray
from ray.exceptions import ActorUnavailableError, NodeDiedError, OutOfMemoryError, WorkerCrashedError

from clipaudit.config import ExecutionConfig, FieldsConfig, JobConfig, ModelConfig
from clipaudit.errors import RunInvalid, ShardError, UsageError, WorkersUnavailable
from clipaudit.job import engine_ray
from clipaudit.job.driver import Reporter, run_job
from clipaudit.job.engine_local import LocalPool
from clipaudit.job.progress import Tally
from clipaudit.job.protocol import Task
from clipaudit.job.sizing import workers_and_resources
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.run.records import CommitRecord
from clipaudit.schema import Shard
from tests.cluster.plain_worker import PlainActor
from tests.make_shards import write_photos

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*", "ignore::FutureWarning:ray.*"),
    pytest.mark.usefixtures("ray_metrics"),
]


class Quiet(Reporter):
    """A reporter that keeps the retries, and the workers that did not start."""

    def __init__(self):
        self.retries, self.not_started = [], []

    def worker_failed(self, failed):
        self.not_started.append(failed)

    def retry(self, failed, counted):
        self.retries.append(failed)


def config_for(tmp_path, model, out="run", **execution):
    execution = {"workers": 1, "cpus_per_worker": 1.0, **execution}
    return JobConfig(
        shards=(f"{tmp_path}/s-*.tar",),
        out=str(tmp_path / out),
        model=ModelConfig(name=model),
        fields=FieldsConfig(label="cls", attributes=("json:place",)),
        execution=ExecutionConfig(**execution),
    )


def run_ray(config, reporter=None):
    return run_job(config, engine_ray.RayPool(config), reporter or Quiet(), threading.Event())


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
    run_job(local, LocalPool(local), Quiet(), threading.Event())
    ours, theirs = Run(str(tmp_path / "run")), Run(str(tmp_path / "local"))
    assert identities(tmp_path / "run") == identities(tmp_path / "local")
    for name in ours.head_labels:
        a, b = (run.heads(name).values.astype(np.float16) for run in (ours, theirs))
        # numbers below 1e-4 are subnormal or nearly so: their last place is finer than float32's own rounding
        assert np.all((ulps(a, b) <= 1) | (np.abs(a.astype(float) - b) < 1e-6))


class KilledOnce(engine_ray._Actor):
    """Is killed in the middle of the first shard that any worker of the run begins."""

    def process(self, task):
        submit, batches = self._worker._submit, []

        def submit_or_die(samples):
            batches.append(samples)
            if len(batches) == 3 and self._worker._run_dir.storage.create("killed", b""):
                os.kill(os.getpid(), signal.SIGKILL)
            return submit(samples)

        self._worker._submit = submit_or_die
        try:
            return super().process(task)
        finally:
            self._worker._submit = submit


@pytest.mark.full
def test_a_worker_killed_in_mid_shard_loses_nothing(tmp_path, tiny_model, monkeypatch):
    make_shards(tmp_path, shards=3, images=40)
    monkeypatch.setattr(engine_ray, "_Actor", KilledOnce)
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


def scraped(url, run):
    """(metric, its own tag) to value of everything that the metrics of one run say; empty before the first report."""
    try:
        text = urllib.request.urlopen(url, timeout=5).read().decode()
    except OSError:
        return {}
    found = {}
    for name, tags, value in re.findall(r"^ray_clipaudit_(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        known = dict(re.findall(r'(\w+)="([^"]*)"', tags))
        if known["run"] == run:
            own = [known[tag] for tag in ("state", "stage", "status", "kind") if tag in known]
            found[name, "".join(own)] = float(value)
    return found


@pytest.mark.full
def test_prometheus_can_scrape_a_jobs_figures(ray_metrics, tmp_path, tiny_model):
    config = config_for(tmp_path, tiny_model)
    pool = engine_ray.RayPool(config)
    tally = Tally(shards_total=9, shards_committed=4, queued=3, running=1, failed=1, ok=100, workers=2, workers_ready=1)
    tally.skipped["undecodable"], tally.retries["node_lost"] = 4, 2
    tally.seconds = {"read": 1.0, "model": 9.0, "total": 10.0}
    pool.publish(tally)
    found, deadline = {}, time.monotonic() + 60
    while len(found) < 14 and time.monotonic() < deadline:
        time.sleep(0.5)
        found = scraped(ray_metrics, config.out)
    assert found == {
        ("shards", "committed"): 4,
        ("shards", "queued"): 3,
        ("shards", "running"): 1,
        ("shards", "failed"): 1,
        ("workers", "ready"): 1,
        ("workers", "starting"): 1,
        ("images_per_second", ""): 0,
        ("stage_busy_ratio", "read"): 0.1,
        ("stage_busy_ratio", "decode"): 0,
        ("stage_busy_ratio", "model"): 0.9,
        ("stage_busy_ratio", "write"): 0,
        ("images_total", "ok"): 100,
        ("images_total", "undecodable"): 4,
        ("retries_total", "node_lost"): 2,
    }


@pytest.mark.full
def test_whatever_ray_says_of_a_lost_call_the_shard_is_done_again(tmp_path, tiny_model, monkeypatch):
    make_shards(tmp_path, shards=4, images=6)
    lost = [
        OutOfMemoryError("Ray's memory monitor killed it"),
        ActorUnavailableError("the connection was lost", None),
        NodeDiedError("the node is gone"),
        WorkerCrashedError(),
    ]
    real = ray.get

    def get(ref, **options):
        value = real(ref, **options)
        if isinstance(value, CommitRecord) and lost:
            raise lost.pop()
        return value

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(engine_ray, "_Actor", PlainActor)
    monkeypatch.setattr("clipaudit.job.scheduler._BACKOFF_SECONDS", 0.0)
    reporter = Quiet()
    run_ray(config_for(tmp_path, tiny_model, max_attempts=5), reporter)
    assert [failed.kind for failed in reporter.retries] == ["worker_lost"] * 4
    rows = identities(tmp_path / "run")
    assert len(rows) == len(set(rows)) == 24


def test_a_worker_that_was_only_out_of_sight_gives_up_its_attempt_before_the_next(tmp_path, tiny_model):
    class Busy:
        """A worker in the middle of an attempt that ends only when it is cancelled."""

        facts, began, ended = None, threading.Event(), False

        def process(self, task):
            self.began.set()
            assert actor._cancel.wait(30)
            time.sleep(0.2)
            self.ended = True
            raise ShardError("given up")

    actor = engine_ray._Actor(config_for(tmp_path, tiny_model), 1)
    actor._worker = worker = Busy()
    shard = Shard(id=0, url="/s.tar", size=1, etag="e")
    task = Task(shard=shard, attempt="a", run_fingerprint="f", max_seconds=60.0)
    with ThreadPoolExecutor(1) as thread:
        attempt = thread.submit(actor.process, task)
        assert worker.began.wait(30)
        actor.start()
        assert worker.ended, "two attempts at once would share one model"
        assert actor._worker is worker, "the model is not loaded twice"
        with pytest.raises(ShardError):
            attempt.result()
    assert not actor._cancel.is_set()


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


class DiesAtStart(engine_ray._Actor):
    def start(self):
        os._exit(1)


class RaisesAtStart(engine_ray._Actor):
    def start(self):
        raise MemoryError("no room for the model")


class Poisoned(PlainActor):
    """Dies on one shard, whoever tries it, after the attempt began."""

    def process(self, task):
        if task.shard.url.endswith("s-01.tar"):
            self._worker._run_dir.begin_attempt(task.shard.id, task.attempt)
            os._exit(1)
        return super().process(task)


class Sick(PlainActor):
    """The first process fails at every shard, as after an error of its GPU; those that follow are well."""

    def start(self):
        found = super().start()
        self._sick = self._worker._run_dir.storage.create("sick", b"")
        return found

    def process(self, task):
        if self._sick:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().process(task)


class WithoutWeights(PlainActor):
    """The first process to start finds the model; every other is on a node that cannot download it, and says so in the
    middle of the job. The last shard waits until that has happened twice."""

    def start(self):
        run_dir = RunDirectory(self._config.out)
        if run_dir.storage.create("first", b""):
            return super().start()
        wait_for(run_dir.committed_ids)
        run_dir.storage.replace(f"failed-{os.getpid()}", b"")
        raise UsageError("--model ViT-L-14 cannot be loaded: no route to host")

    def process(self, task):
        storage = self._worker._run_dir.storage
        if task.shard.url.endswith("s-03.tar"):
            wait_for(lambda: sum(name.startswith("failed-") for name in storage.names("")) == 2)
        return super().process(task)


class HangsOnce(PlainActor):
    """Hangs on the first attempt at a shard."""

    def process(self, task):
        if task.shard.url.endswith("s-00.tar") and self._worker._run_dir.attempts(task.shard.id) == []:
            self._worker._run_dir.begin_attempt(task.shard.id, task.attempt)
            time.sleep(600)
        return super().process(task)


@pytest.mark.full
@pytest.mark.parametrize(
    ("actor", "words"), [(DiesAtStart, "the process died"), (RaisesAtStart, "no room for the model")]
)
def test_workers_that_cannot_start_end_the_job_with_the_reason(tmp_path, tiny_model, monkeypatch, actor, words):
    make_shards(tmp_path, shards=1)
    monkeypatch.setattr(engine_ray, "_Actor", actor)
    with pytest.raises(WorkersUnavailable, match=words):
        run_ray(config_for(tmp_path, tiny_model, max_init_failures=1))
    assert not (tmp_path / "run").exists()


@pytest.mark.full
def test_a_poison_shard_costs_only_itself(tmp_path, tiny_model, monkeypatch):
    make_shards(tmp_path, shards=3)
    monkeypatch.setattr(engine_ray, "_Actor", Poisoned)
    monkeypatch.setattr("clipaudit.job.scheduler._BACKOFF_SECONDS", 0.0)
    with pytest.raises(RunInvalid, match="1 of 3 shards failed"):
        run_ray(config_for(tmp_path, tiny_model, max_attempts=2))
    assert sorted({shard for shard, _ in identities(tmp_path / "run")}) == [0, 2]
    assert (tmp_path / "run/_failed/000001.json").exists()


@pytest.mark.full
def test_a_worker_that_is_broken_spoils_one_attempt_and_gets_a_new_process(tmp_path, tiny_model, monkeypatch):
    make_shards(tmp_path, shards=4)
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(engine_ray, "_Actor", Sick)
    monkeypatch.setattr("clipaudit.job.scheduler._BACKOFF_SECONDS", 0.0)
    reporter = Quiet()
    run_ray(config_for(tmp_path, tiny_model, max_attempts=2), reporter)
    assert [(failed.kind, failed.unforeseen) for failed in reporter.retries] == [("error", True)]
    assert "CUDA error" in reporter.retries[0].error
    assert len(identities(tmp_path / "run")) == 48


@pytest.mark.full
def test_a_worker_that_hangs_is_killed_and_its_shard_done_again(tmp_path, tiny_model, monkeypatch):
    make_shards(tmp_path, shards=2)
    monkeypatch.setattr(engine_ray, "_Actor", HangsOnce)
    monkeypatch.setattr("clipaudit.job.scheduler._KILL_GRACE_SECONDS", 0.0)
    reporter = Quiet()
    run_ray(config_for(tmp_path, tiny_model, max_shard_seconds=4.0), reporter)
    assert [failed.kind for failed in reporter.retries] == ["timeout"]
    assert len(identities(tmp_path / "run")) == 24


@pytest.mark.full
def test_a_users_mistake_in_a_worker_ends_the_job_at_once(tmp_path, tiny_model):
    make_shards(tmp_path, shards=1)
    config = config_for(tmp_path, "ViT-Q-99")
    with pytest.raises(UsageError, match="ViT-Q-99"):
        run_ray(config)


@pytest.mark.full
def test_a_node_that_cannot_load_the_model_ends_no_job_that_others_do(tmp_path, tiny_model, monkeypatch):
    make_shards(tmp_path, shards=4)
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(engine_ray, "_Actor", WithoutWeights)
    reporter = Quiet()
    run_ray(config_for(tmp_path, tiny_model, workers=2, max_init_failures=1), reporter)
    assert {failed.error for failed in reporter.not_started} == {"--model ViT-L-14 cannot be loaded: no route to host"}
    assert len(identities(tmp_path / "run")) == 48


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
    config = JobConfig(shards=("a",), out="b", model=ModelConfig(device=device), execution=ExecutionConfig(**execution))
    assert workers_and_resources(config, resources) == expected


def test_an_empty_cluster_needs_to_be_told_how_many_workers():
    with pytest.raises(UsageError, match="--workers"):
        workers_and_resources(JobConfig(shards=("a",), out="b"), {})


@pytest.mark.parametrize(("address", "sent"), [(None, "0"), ("ray://head:10001", None)])
def test_a_cluster_of_its_own_reports_no_usage(monkeypatch, address, sent):
    seen = []
    monkeypatch.setattr(engine_ray.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(engine_ray.ray, "init", lambda **_: seen.append(os.environ.get("RAY_USAGE_STATS_ENABLED")))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "")  # so that it is set back
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
    engine_ray.connect(ExecutionConfig(address=address))
    assert seen == [sent]


def test_a_machine_on_which_ray_never_starts_in_time_gets_one_sentence(monkeypatch):
    def late(**_):
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(engine_ray.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(engine_ray.ray, "init", late)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(WorkersUnavailable, match="too busy or has too little memory; --engine local does without Ray"):
        engine_ray.connect(ExecutionConfig())
