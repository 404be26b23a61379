"""The driver at the scale of a billion images: 100,000 shards, 1,000 workers that do nothing but answer.

    python benchmarks/scheduler.py [--shards 100000] [--workers 1000] [--folder DIR] [--only driver|ray|readers]

driver   the real scheduler, run directory and commits on disk, workers in this process: time a shard, peak memory
ray      the same through the pool on Ray: every worker is an actor handle of the pool, all of them served by threads
         of two real actors, since this machine has no room for 1,000 processes; a tenth of the shards
readers  what a command waits for when so many shards are committed: listing, plan, status, watch, index plan

Each part runs in a process of its own, so that peak memory is its own. `cpu` is the process's: the driver's own
thread, the threads that commit, and those of Ray.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit.config import ExecutionConfig, JobConfig
from clipaudit.job.progress import Tally
from clipaudit.job.protocol import Event, Finished, Pool, Ready, Task, WorkerFacts
from clipaudit.job.scheduler import Scheduler
from clipaudit.retrieval.kinds import peak_bytes
from clipaudit.run.directory import BASIS, MANIFEST, RunDirectory
from clipaudit.run.records import CommitRecord, StoredFile
from clipaudit.schema import Shard
from tests.make_runs import SPEC, make_manifest, make_samples, make_vectors, tower_spec, write_attempt

L14 = tower_spec(layers=24, heads=16, head_dim=64, embed_dim=768)
FACTS = WorkerFacts(model={"fingerprint": "feed", "name": "ViT-L-14"}, table=L14, host="stub", device="none")
PARTS = ("driver", "ray", "readers")
T = TypeVar("T")


def shards_of(number: int) -> tuple[Shard, ...]:
    """As many shards of about 250 MB, with addresses of ordinary length."""
    return tuple(
        Shard(id=i, url=f"s3://bucket/dataset/train-{i:06d}.tar", size=250_000_000 + i % 977, etag=f"{i:032x}")
        for i in range(number)
    )


def record_of(task: Task) -> CommitRecord:
    """What a worker answers after a shard of 10,000 images; `benchmarks/scale.py` takes its size."""
    name, digest = f"{task.shard.id:06d}-{task.attempt}", "0123456789abcdef" * 4
    return CommitRecord(
        shard_id=task.shard.id,
        url=task.shard.url,
        attempt=task.attempt,
        files={
            f"projections/{name}.parquet": StoredFile(bytes=99_000_000, sha256=digest),
            f"moments/{name}.safetensors": StoredFile(bytes=3_200_000, sha256=digest),
        },
        run_files={
            MANIFEST: StoredFile(bytes=14_100_000, sha256=digest),
            BASIS: StoredFile(bytes=25_000_000, sha256=digest),
        },
        rows=10_000,
        ok=9_990,
        skipped={"undecodable": 8, "missing_label": 2},
        details={"undecodable": [f"{key:09d}: the file is no image" for key in range(5)]},
        input_size=task.shard.size,
        input_etag=task.shard.etag,
        input_sha256=digest,
        generation=task.generation,
        bytes_good=task.shard.size,
        timings={"read": 8.1, "decode": 21.4, "model": 33.3, "write": 2.2, "total": 34.0},
        worker="node-0123",
    )


class StubPool:
    """Workers that finish at the next look, a tenth of them at a time."""

    def __init__(self, workers: int) -> None:
        self._workers, self._running, self._events = workers, deque[Task](), list[Event]()

    def start(self) -> None:
        """All at once."""
        self._events = [Ready(worker=f"worker-{n:03d}", facts=FACTS) for n in range(self._workers)]

    def live(self) -> int:
        """All of them, always."""
        return self._workers

    ready = live

    def idle(self) -> int:
        """Those without a task."""
        return self._workers - len(self._running)

    def submit(self, task: Task) -> None:
        """Note the task."""
        self._running.append(task)

    def poll(self, timeout: float) -> list[Event]:
        """The answers of a tenth."""
        events, self._events = self._events, []
        for _ in range(min(len(self._running), max(1, self._workers // 10))):
            task = self._running.popleft()
            events.append(Finished(task=task, record=record_of(task)))
        return events

    def progress(self) -> int:
        """Nothing that has not been told."""
        return 0

    def progressed_at(self, task: Task) -> float:
        """Never seen: every task ends at the next look."""
        return 0.0

    def kill(self, task: Task) -> None:
        """Nothing gets stuck."""

    def restart(self, worker: str) -> None:
        """Nothing fails."""

    def publish(self, tally: Tally) -> None:
        """Nobody listens."""

    def close(self) -> None:
        """Nothing to end."""


def measured(name: str, call: Callable[[], T]) -> T:
    """Run, print seconds and CPU seconds, and return the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"  {name:58} {wall:8.2f} s   cpu {cpu:8.2f} s", flush=True)
    return result


def peak() -> str:
    return f"{peak_bytes() / 2**30:.2f} GiB"


def drive(pool: Pool, shards: tuple[Shard, ...], folder: Path, execution: ExecutionConfig) -> None:
    """Every shard through the real scheduler into a real run directory."""
    run_dir = RunDirectory(str(folder / "run"))
    manifest = run_dir.create_or_resume(make_manifest(L14, shards))
    scheduler = Scheduler(run_dir, pool, execution, threading.Event())
    scheduler.first_worker()
    tally = Tally(shards_total=len(shards), shards_committed=0)
    wall, cpu, own = time.perf_counter(), time.process_time(), time.thread_time()
    scheduler.run(shards, manifest.fingerprint, tally)
    wall, cpu, own = time.perf_counter() - wall, time.process_time() - cpu, time.thread_time() - own
    assert tally.shards_committed == len(shards) == len(run_dir.committed_ids())
    wall_ms, cpu_ms, own_ms = (1000 * seconds / len(shards) for seconds in (wall, cpu, own))
    each = f"{wall_ms:.3f} ms a shard, cpu {cpu_ms:.3f} ms, of that {own_ms:.3f} ms in the driver's own thread"
    print(f"  {len(shards):,} shards in {wall:.1f} s: {each}; peak memory {peak()}", flush=True)
    pool.close()


def driver(folder: Path, shards: int, workers: int) -> None:
    print(f"\nThe driver, {workers:,} workers in this process, commits on disk")
    drive(StubPool(workers), shards_of(shards), folder, ExecutionConfig())


def on_ray(folder: Path, shards: int, workers: int) -> None:
    import ray

    from clipaudit.job import engine_ray

    class Threads:
        """Two of these answer for all workers; a shard takes about as long as its answer's way."""

        def start(self) -> tuple[WorkerFacts, str]:
            return FACTS, ray.get_runtime_context().get_node_id()

        def process(self, task: Task) -> CommitRecord:
            time.sleep(0.5)
            return record_of(task)

        def progress(self) -> int:
            return 0

    class SharedPool(engine_ray.RayPool):
        """A pool whose handles all lead to the same two actors."""

        _hosts: list[Any]

        def _new_actor(self) -> object:
            if not hasattr(self, "_hosts"):
                remote = ray.remote(Threads).options(num_cpus=0, max_concurrency=workers)
                self._hosts = [remote.remote() for _ in range(2)]
            return self._hosts[len(self._workers) % 2]

        def close(self) -> None:
            self._workers.clear()
            super().close()

    print(f"\nThe driver through Ray {ray.__version__}, {workers:,} handles, commits on disk")
    config = JobConfig(
        shards=("-",), out=str(folder / "run"), execution=ExecutionConfig(workers=workers, cpus_per_worker=1)
    )
    temporary = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: Ray's sockets allow about 100 characters
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=temporary)
    drive(SharedPool(config), shards_of(shards // 10), folder, config.execution)
    ray.shutdown()


def readers(folder: Path, shards: int, workers: int) -> None:
    from clipaudit.job.watch import Watcher
    from clipaudit.retrieval.rowmap import segments_for
    from clipaudit.run.reader import Run
    from clipaudit.run.upkeep import status
    from clipaudit.shards.listing import expand

    print(f"\nReaders of a run with {shards:,} committed shards, files in the page cache")
    data = folder / "data"
    data.mkdir()
    for number in range(shards):
        (data / f"{number:06d}.tar").touch()
    found = measured("list the shards by a glob", lambda: expand([f"{data}/*.tar"]))
    run_dir = RunDirectory(str(folder / "run"))
    manifest = make_manifest(SPEC, tuple(replace(shard, size=1000) for shard in found))
    measured("write run.json", lambda: run_dir.create_or_resume(manifest))
    print(f"  ({run_dir.storage.size('run.json') / 1e6:.1f} MB)")
    commit_all(run_dir, found)
    url = run_dir.url
    measured("resume: read run.json and compare it", lambda: run_dir.create_or_resume(manifest))
    measured("resume: list what is committed", run_dir.committed_ids)
    measured("Run(...), then all commit records", lambda: Run(url).records)
    measured("clipaudit status", lambda: status(url))
    watcher = measured("clipaudit status --watch, before the first look", lambda: Watcher(url))
    measured("clipaudit status --watch, the first look", watcher.look)
    measured("clipaudit status --watch, every further look", watcher.look)
    measured("clipaudit index: plan and row segments", lambda: segments_for(Run(url)))
    print(f"  peak memory {peak()}")


def commit_all(run_dir: RunDirectory, shards: list[Shard]) -> None:
    """Commit every shard with files of ten rows; the files' contents are those of a few, linked."""
    record = write_attempt(run_dir, shards[0], SPEC, make_samples(10), *make_vectors(SPEC, 10))
    sources = {}
    for shard in shards:
        attempt = f"{shard.id:012x}"
        if shard.id % 50_000 == 0:  # a file system allows about 65,000 links to a file
            sources = {
                name: Path(run_dir.storage.full(name)).read_bytes() for name in (record.projections, record.moments)
            }
        files = {}
        for (old, stored), name in zip(
            record.files.items(),
            (run_dir.projections_path(shard.id, attempt), run_dir.moments_path(shard.id, attempt)),
            strict=True,
        ):
            target = Path(run_dir.storage.full(name))
            first = Path(run_dir.storage.full(f"{Path(name).parent}/.source-{shard.id // 50_000}"))
            if not first.exists():
                first.write_bytes(sources[old])
            os.link(first, target)
            files[name] = stored
        done = replace(record, shard_id=shard.id, url=shard.url, attempt=attempt, files=files, input_etag=shard.etag)
        Path(run_dir.storage.full(run_dir.commit_path(shard.id))).write_bytes(done.to_json())


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--folder", help="where to write; default: the system's temporary directory")
    parser.add_argument("--only", choices=PARTS)
    options = parse(parser, shards=200, workers=20)
    if options.only is None:
        print(json.dumps({"machine": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()}))
        for part in PARTS:
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only", part], check=True)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        part: Callable[[Path, int, int], None] = {"driver": driver, "ray": on_ray, "readers": readers}[options.only]
        part(Path(name), options.shards, options.workers)


if __name__ == "__main__":
    main()
