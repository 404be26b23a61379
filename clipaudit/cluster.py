"""The pool of workers on Ray: long-lived actors, one shard each at a time (the only file that imports ray)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import ray
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    RayActorError,
    RayError,
    RayTaskError,
)

from clipaudit.config import AuditConfig, ExecutionConfig
from clipaudit.errors import ClipauditError, RunInvalid, ShardError, UsageError
from clipaudit.records import CommitRecord
from clipaudit.tasks import Event, Failed, FailureKind, Finished, Ready, StartFailed, Task, WorkerFacts

_LOSS_SETTLES_SECONDS = 40.0  # Ray needs up to about half a minute to declare a silent node dead
_PROGRESS_SECONDS = 1.0
_CPUS_PER_WORKER = 4.0

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class _Actor:
    """The remote side: a ShardWorker behind three calls. `__init__` does nothing, so that Ray can always restart it."""

    def __init__(self, config: AuditConfig, threads: int) -> None:
        self._config = config
        self._threads = threads
        self._worker: Any = None

    def start(self) -> tuple[WorkerFacts, str]:
        """Load the model; (facts, Ray node id)."""
        import torch

        from clipaudit.worker import ShardWorker

        torch.set_num_threads(self._threads)
        self._worker = ShardWorker(self._config)
        return self._worker.facts, ray.get_runtime_context().get_node_id()

    def process(self, task: Task) -> CommitRecord:
        """Write one shard's files."""
        if self._worker is None:  # Ray restarted the process between two calls
            raise _NotStartedError(f"{task.shard.url}: the worker was restarted")
        record: CommitRecord = self._worker.process(task)
        return record

    def progress(self) -> int:
        """Samples that the running attempt has written."""
        return 0 if self._worker is None else int(self._worker.samples_done)


class _NotStartedError(ShardError):
    """The actor's process is new and has no model yet."""


@dataclass(kw_only=True)
class _Worker:
    """The driver's view of one actor."""

    name: str
    actor: Any
    state: Literal["starting", "idle", "busy", "failed"] = "starting"
    node: str = ""
    task: Task | None = None
    lost_at: float | None = None
    """When the running task was lost; its failure is reported once it is known whether the node went with it."""
    lost_node: str = ""
    lost_error: str = ""
    killed: bool = False


class _Caller:
    """The remote side of `map_on_actors`: calls what it is given."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401
        """`function(*arguments)`."""
        return function(*arguments)


def map_on_actors(
    function: Callable[[_Item, int, int], _Result], items: Sequence[_Item], execution: ExecutionConfig
) -> Iterator[_Result]:
    """`function(item, cpus, actors)` for every item, many at once on a cluster's actors; results as they come.

    An item whose process is lost is tried again on a new one, `max_attempts` times in all, then RunInvalid. What the
    function raises is raised here.
    """
    if not items:
        return
    owned = connect(execution)
    try:
        workers, cpus = callers_and_cpus(execution, len(items), ray.cluster_resources())
        new = ray.remote(_Caller).options(num_cpus=cpus, num_gpus=0, max_restarts=0).remote
        waiting, attempts = list(reversed(range(len(items)))), [0] * len(items)
        idle = [new() for _ in range(workers)]
        running: dict[Any, tuple[int, Any]] = {}
        while waiting or running:
            while waiting and idle:
                number, actor = waiting.pop(), idle.pop()
                attempts[number] += 1
                running[actor.call.remote(function, items[number], max(1, int(cpus)), workers)] = number, actor
            done, _ = ray.wait(list(running), num_returns=1)
            number, actor = running.pop(done[0])
            try:
                result: _Result = ray.get(done[0])
            except RayTaskError as error:
                raise error.cause from error
            except (RayActorError, NodeDiedError) as error:
                if attempts[number] >= execution.max_attempts:
                    raise RunInvalid(
                        f"the worker process was lost {attempts[number]} times at {items[number]}"
                    ) from error
                waiting.append(number)
                idle.append(new())
                continue
            idle.append(actor)
            yield result
    finally:
        if owned:
            ray.shutdown()


def callers_and_cpus(execution: ExecutionConfig, items: int, cluster: dict[str, float]) -> tuple[int, float]:
    """(actors, CPUs of each) for work that needs no GPU: no more actors than items, and all CPUs in use."""
    cpus = max(1.0, cluster.get("CPU", 1.0))
    workers = execution.workers or max(1, min(items, int(cpus // (execution.cpus_per_worker or 1))))
    return workers, execution.cpus_per_worker or max(1.0, cpus // workers)


class RayPool:
    """Actors of one Ray cluster as a scheduler's Pool."""

    def __init__(self, config: AuditConfig) -> None:
        self._config = config
        self._workers: dict[str, _Worker] = {}
        self._pending: dict[Any, _Worker] = {}
        self._progress: dict[Any, _Worker] = {}
        self._progress_at = 0.0
        self._samples: dict[str, int] = {}
        self._owns_cluster = False

    def start(self) -> None:
        """Join or start the cluster and create the actors."""
        self._owns_cluster = connect(self._config.execution)
        count, cpus, gpus = workers_and_resources(self._config, ray.cluster_resources())
        self._options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": -1, "max_task_retries": 0}
        for number in range(count):
            worker = _Worker(name=f"worker-{number:03d}", actor=self._new_actor())
            self._workers[worker.name] = worker
            self._start(worker)

    def live(self) -> int:
        """Workers that are starting, idle or busy."""
        return sum(worker.state != "failed" for worker in self._workers.values())

    def idle(self) -> int:
        """Workers that are ready and have no task."""
        return sum(worker.state == "idle" for worker in self._workers.values())

    def submit(self, task: Task) -> None:
        """Hand a task to an idle worker."""
        worker = next(worker for worker in self._workers.values() if worker.state == "idle")
        worker.state, worker.task, worker.killed = "busy", task, False
        self._pending[worker.actor.process.remote(task)] = worker

    def kill(self, task: Task) -> None:
        """Kill the process that is stuck on a task; Ray starts it anew."""
        for worker in self._workers.values():
            if worker.task == task:
                worker.killed = True
                ray.kill(worker.actor, no_restart=False)

    def restart(self, worker: str) -> None:
        """Start a worker again after it failed to start."""
        found = self._workers[worker]
        ray.kill(found.actor)
        found.actor = self._new_actor()
        self._start(found)

    def poll(self, timeout: float) -> list[Event]:
        """Events since the last call; waits up to `timeout` seconds for the first."""
        events: list[Event] = []
        if not self._pending:
            time.sleep(timeout)
        else:
            ready, _ = ray.wait(list(self._pending), num_returns=1, timeout=timeout)
            if ready:
                ready, _ = ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
            for ref in ready:
                events += self._resolve(ref, self._pending.pop(ref))
        events += self._settle_losses()
        return events

    def progress(self) -> int:
        """Samples that the running attempts have finished so far, asked for at most once a second."""
        if self._progress:
            ready, _ = ray.wait(list(self._progress), num_returns=len(self._progress), timeout=0)
            for ref in ready:
                worker = self._progress.pop(ref)
                try:
                    self._samples[worker.name] = ray.get(ref)
                except RayError:  # a lost worker has no progress; its loss is reported by its task
                    self._samples.pop(worker.name, None)
        if not self._progress and time.monotonic() - self._progress_at > _PROGRESS_SECONDS:
            self._progress_at = time.monotonic()
            busy = [worker for worker in self._workers.values() if worker.state == "busy"]
            self._progress = {worker.actor.progress.remote(): worker for worker in busy}
            self._samples = {worker.name: self._samples.get(worker.name, 0) for worker in busy}
        return sum(self._samples.values())

    def close(self) -> None:
        """End the actors, and the cluster if this pool started it."""
        for worker in self._workers.values():
            ray.kill(worker.actor)
        self._workers.clear()
        if self._owns_cluster:
            ray.shutdown()

    def _new_actor(self) -> Any:  # noqa: ANN401 - Ray's handle has no public type
        remote = ray.remote(_Actor).options(**self._options, max_concurrency=2)  # the second answers progress()
        return remote.remote(self._config, max(1, int(self._options["num_cpus"])))

    def _start(self, worker: _Worker) -> None:
        worker.state = "starting"
        self._pending[worker.actor.start.remote()] = worker

    def _resolve(self, ref: Any, worker: _Worker) -> list[Event]:  # noqa: ANN401
        """Turn one finished call into events; a user's mistake or a full disk ends the job by raising."""
        try:
            value = ray.get(ref)
        except RayTaskError as error:
            return self._resolve_raised(worker, error.cause, str(error))
        except (RayActorError, NodeDiedError) as error:
            return self._resolve_lost(worker, error)
        if worker.state == "starting":
            facts, worker.node = value
            worker.state = "idle"
            return [Ready(worker=worker.name, facts=facts)]
        task, worker.state, worker.task = worker.task, "idle", None
        self._samples.pop(worker.name, None)
        assert task is not None
        return [Finished(task=task, record=value)]

    def _resolve_raised(self, worker: _Worker, cause: BaseException, trace: str) -> list[Event]:
        if isinstance(cause, UsageError | RunInvalid):
            raise cause
        sentence = str(cause) if isinstance(cause, ClipauditError) else f"{type(cause).__name__}: {cause}"
        if worker.state == "starting":
            worker.state = "failed"
            return [StartFailed(worker=worker.name, error=sentence, traceback=trace)]
        if isinstance(cause, _NotStartedError):
            return self._resolve_lost(worker, cause)
        task, worker.state, worker.task = worker.task, "idle", None
        assert task is not None
        return [Failed(task=task, kind="error", error=sentence, traceback=trace)]

    def _resolve_lost(self, worker: _Worker, error: BaseException) -> list[Event]:
        """The actor's process is gone: start it again, and report a running task once the cause is known."""
        sentence = str(error).strip().split("\n", 1)[0]
        if worker.state == "starting" and worker.lost_at is None and not _node_is_dead(worker.node):
            worker.state = "failed"
            return [StartFailed(worker=worker.name, error=f"the process died: {sentence}", traceback=str(error))]
        if worker.state == "busy":
            worker.lost_at, worker.lost_error, worker.lost_node = time.monotonic(), sentence, worker.node
        if isinstance(error, ActorDiedError):  # for good: a new actor takes its place
            worker.actor = self._new_actor()
        self._start(worker)
        return []

    def _settle_losses(self) -> list[Event]:
        """Report lost tasks whose cause is known: the node is dead, the worker is back, or nothing more will come."""
        events: list[Event] = []
        for worker in self._workers.values():
            if worker.lost_at is None or worker.task is None:
                continue
            dead = _node_is_dead(worker.lost_node)
            back = worker.state in ("idle", "failed")
            if not (worker.killed or dead or back or time.monotonic() - worker.lost_at > _LOSS_SETTLES_SECONDS):
                continue
            kind: FailureKind = "timeout" if worker.killed else "node_lost" if dead else "worker_lost"
            events.append(Failed(task=worker.task, kind=kind, error=f"the worker was lost: {worker.lost_error}"))
            worker.task, worker.lost_at, worker.killed = None, None, False
        return events


def connect(config: ExecutionConfig) -> bool:
    """Join the cluster that the job runs in or `address` names, else start a local one; True if it was started here."""
    if ray.is_initialized():
        return False
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    local = address == "local"
    try:
        # a bare ray.init() would join whatever cluster happens to run on this machine
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            **({"include_dashboard": False} if local else {}),
        )
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        hint = "" if local else "; if it uses token authentication, set RAY_AUTH_MODE=token and the cluster's token"
        first = str(error).strip().split("\n", 1)[0]
        raise UsageError(f"Ray at address {address!r} cannot be used: {first}{hint}") from error
    return local


def workers_and_resources(config: AuditConfig, cluster: dict[str, float]) -> tuple[int, float, float]:
    """(workers, CPUs of each, GPUs of each) for a cluster's resources; what the user gave stays as given."""
    execution = config.execution
    cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    wants_gpu = config.model.device.startswith("cuda") or (config.model.device == "auto" and gpus > 0)
    per_gpu = execution.gpus_per_worker if execution.gpus_per_worker is not None else float(wants_gpu)
    if cpus == 0 and gpus == 0 and execution.workers is None:
        raise UsageError("the cluster has no CPUs or GPUs yet: give --workers (and --gpus-per-worker)")
    if execution.workers is not None:
        workers = execution.workers
    elif per_gpu > 0:
        workers = int(gpus / per_gpu)
        if workers == 0:
            raise UsageError(f"the cluster has {gpus:g} GPUs, fewer than --gpus-per-worker {per_gpu:g}: give --workers")
    else:
        workers = max(1, int(cpus // (execution.cpus_per_worker or _CPUS_PER_WORKER)))
    share = max(1.0, cpus // workers) if cpus else 1.0
    return workers, execution.cpus_per_worker or min(_CPUS_PER_WORKER, share), per_gpu


def _node_is_dead(node: str) -> bool:
    return bool(node) and not any(entry["NodeID"] == node and entry["Alive"] for entry in ray.nodes())
