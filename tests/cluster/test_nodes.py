"""Several Ray nodes: one that joins gets workers, one whose memory runs out loses them, and the job goes on."""

import itertools
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import ray
from ray._private import node as ray_node
from ray._private import services
from ray.cluster_utils import Cluster

from clipaudit.config import ExecutionConfig, FieldsConfig, JobConfig, ModelConfig
from clipaudit.job import engine_ray
from clipaudit.job.driver import Reporter, run_job
from clipaudit.run.reader import Run
from tests.cluster.plain_worker import PlainActor
from tests.make_shards import write_photos

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*", "ignore::FutureWarning:ray.*")


@pytest.fixture
def nodes(monkeypatch):
    """`nodes(**system configuration)` starts a cluster of one node with one CPU and joins it; more can be added."""
    directory = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: Ray's sockets allow about 100 characters
    monkeypatch.setenv("RAY_TMPDIR", directory)
    ray.shutdown()  # another module's cluster
    started = []

    def start(**system):
        arguments = {"num_cpus": 1, "include_dashboard": False, "_system_config": system}
        started.append(engine_ray.with_patience(lambda: Cluster(initialize_head=True, head_node_args=arguments)))
        ray.init(address=started[0].address, log_to_driver=False)
        return started[0]

    yield start
    ray.shutdown()
    for found in started:
        found.shutdown()
    shutil.rmtree(directory, ignore_errors=True)


def config_for(tmp_path, model, **execution):
    return JobConfig(
        shards=(f"{tmp_path}/s-*.tar",),
        out=str(tmp_path / "run"),
        model=ModelConfig(name=model, batch_size=4),
        fields=FieldsConfig(label="cls"),
        execution=ExecutionConfig(cpus_per_worker=1, **execution),
    )


class Follower(Reporter):
    """Notes the hosts' workers and the retries; calls what it is given once the first shard is committed."""

    def __init__(self, on_first_commit=lambda: None):
        self.ready, self.retries, self.on_first_commit = set(), [], on_first_commit

    def worker_ready(self, ready):
        self.ready.add(ready.worker)

    def retry(self, failed, counted):
        self.retries.append(failed)

    def committed(self, task, record):
        self.on_first_commit()
        self.on_first_commit = lambda: None


class Unhurried(PlainActor):
    """Leaves a second node the time to join: the second shard waits until two workers were given one."""

    def process(self, task):
        marks = Path(self._config.out)
        (marks / f"worker-{os.getpid()}.mark").touch()
        if task.shard.url.endswith("s-01.tar"):
            waited = 0.0
            while len(list(marks.glob("*.mark"))) < 2 and waited < 120:
                threading.Event().wait(0.25)
                waited += 0.25
        return super().process(task)


@pytest.mark.full
def test_a_node_that_joins_gets_a_worker(nodes, tmp_path, tiny_model, monkeypatch):
    for number in range(6):
        write_photos(tmp_path / f"s-{number:02d}.tar", 12 - number, prefix=f"p{number}")
    monkeypatch.setattr(engine_ray, "_Actor", Unhurried)
    monkeypatch.setattr(engine_ray, "_GROW_SECONDS", 1.0)
    machines = nodes()
    follower = Follower(lambda: machines.add_node(num_cpus=1))
    config = config_for(tmp_path, tiny_model)
    run_job(config, engine_ray.RayPool(config), follower, threading.Event())
    assert follower.ready == {"worker-000", "worker-001"}
    assert len(list((tmp_path / "run").glob("*.mark"))) == 2, "the new worker was given shards"
    assert len(Run(config.out)) == sum(12 - number for number in range(6))


class Hungry(engine_ray._Actor):
    """Takes memory until Ray's monitor ends it, on the first attempt at one shard."""

    def process(self, task):
        if task.shard.url.endswith("s-01.tar") and not self._worker._run_dir.attempts(task.shard.id):
            self._worker._run_dir.begin_attempt(task.shard.id, task.attempt)
            held = []
            for _ in range(600):
                held.append(bytearray(os.urandom(2**20) * 16))
                threading.Event().wait(0.05)
        return super().process(task)


@pytest.mark.slow
def test_rays_memory_monitor_costs_an_attempt_and_no_more(nodes, tmp_path, tiny_model, monkeypatch):
    """Slow, and not in the default run: how full the machine is depends on its neighbours too."""
    for number in range(3):
        write_photos(tmp_path / f"s-{number:02d}.tar", 12, prefix=f"p{number}")
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + 3 * 2**30) / memory.total
    monkeypatch.setattr(engine_ray, "_Actor", Hungry)
    nodes(memory_usage_threshold=threshold, memory_monitor_refresh_ms=100)
    follower = Follower()
    config = config_for(tmp_path, tiny_model, workers=1, max_attempts=5)
    run_job(config, engine_ray.RayPool(config), follower, threading.Event())
    assert "worker_lost" in {failed.kind for failed in follower.retries}
    assert any("memory" in failed.error for failed in follower.retries), [failed.error for failed in follower.retries]
    assert len(Run(config.out)) == 36


@pytest.mark.full
def test_a_node_that_does_not_start_in_time_is_ended_and_started_again(nodes, monkeypatch):
    asked = itertools.count()
    get_node = services.get_node

    def late(*arguments):
        if next(asked) == 0:
            raise RuntimeError("not there yet")
        return get_node(*arguments)

    ours = psutil.Process()
    before = {child.pid for child in ours.children(recursive=True)}
    monkeypatch.setattr(services, "get_node", late)
    clock = itertools.count(step=60)  # seconds: the first answer that is not there exceeds Ray's patience
    monkeypatch.setattr(
        ray_node, "time", SimpleNamespace(sleep=time.sleep, time=time.time, monotonic=lambda: next(clock))
    )
    nodes()
    heads = [
        child for child in ours.children(recursive=True) if child.name() == "gcs_server" and child.pid not in before
    ]
    assert len(heads) == 1, "the node that was late has left its processes"
    assert ray.cluster_resources()["CPU"] == 1
