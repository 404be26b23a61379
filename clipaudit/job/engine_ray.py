"""Workers on Ray: long-lived actors, each with one shard at a time (the only file that imports ray)."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray._private.node import Node
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.util import metrics

from clipaudit.config import ExecutionConfig, JobConfig
from clipaudit.errors import ClipauditError, RunInvalid, ShardTooSlow, UsageError, WorkersUnavailable
from clipaudit.job.engine_ray_actor import ItemActor, WorkerActor, WorkerNotLoaded
from clipaudit.job.engine_ray_metrics import JobMetrics
from clipaudit.job.engine_ray_view import ActorView
from clipaudit.job.progress import Tally
from clipaudit.job.protocol import Event, Failed, FailureKind, Finished, Ready, StartFailed, Task, WorkerFacts
from clipaudit.job.sizing import callers_and_cpus, workers_and_resources, workers_that_fit
from clipaudit.storage.remote import remote_errors

IN_THIS_PROCESS = False

_LOSS_SETTLES_SECONDS = 40.0  # Ray needs up to about half a minute to declare a silent node dead
_PROGRESS_SECONDS = 1.0  # for up to a hundred workers; asked less often when there are more
_RESTART_SECONDS = 1.0
_GROW_SECONDS = 10.0
_METRICS_SECONDS = 2.0
_NODE_STARTS = 2
_TIMED_OUT = "timed out during startup"  # Ray raises a plain Exception for it

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class _Actor(WorkerActor):
    """A WorkerActor that also knows where it runs."""

    def start(self) -> tuple[WorkerFacts, str]:
        """Load the model; (facts, Ray's id of this node)."""
        return self.load(), ray.get_runtime_context().get_node_id()


def make_pool(config: JobConfig) -> RayPool:
    """The actors of one job, not started yet."""
    return RayPool(config)


def map_items(
    function: Callable[[_Item, int, int], _Result], items: Sequence[_Item], execution: ExecutionConfig
) -> Iterator[_Result]:
    """`function(item, threads, callers)` for every item, many at once on a cluster's actors; results as they come.

    An item whose process is lost is tried again on a new actor, `execution.max_attempts` times in all; then RunInvalid
    is raised. What the function raises is raised here.
    """
    if not items:
        return
    owned = connect(execution)
    try:
        actors, cpus = callers_and_cpus(execution, len(items), ray.cluster_resources())
        new_actor = ray.remote(ItemActor).options(num_cpus=cpus, num_gpus=0, max_restarts=0).remote
        waiting, attempts = list(reversed(range(len(items)))), [0] * len(items)
        idle = [new_actor() for _ in range(actors)]
        running: dict[Any, tuple[int, Any]] = {}  # Ray's reference -> (number of the item, actor)
        while waiting or running:
            while waiting and idle:
                number, actor = waiting.pop(), idle.pop()
                attempts[number] += 1
                running[actor.call.remote(function, items[number], max(1, int(cpus)), actors)] = number, actor
            finished, _ = ray.wait(list(running), num_returns=1)
            number, actor = running.pop(finished[0])
            try:
                result: _Result = ray.get(finished[0])
            except RayTaskError as error:
                raise error.cause from error
            except RayError as error:
                if attempts[number] >= execution.max_attempts:
                    raise RunInvalid(
                        f"the worker process was lost {attempts[number]} times at {items[number]}"
                    ) from error
                waiting.append(number)
                idle.append(new_actor())
                continue
            idle.append(actor)
            yield result
    finally:
        if owned:
            ray.shutdown()


class RayPool:
    """Actors of one Ray cluster as a scheduler's Pool.

    Every call of an actor that has not ended is a reference in `_pending` (`start`, `process`) or `_progress`. An actor
    whose process was lost is started again, at once or after a pause (`_restarts`); the task that it had is reported as
    failed by `_settle_losses` once the cause is known, because the death of a node does not count against the shard.
    """

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._workers: dict[str, ActorView] = {}
        self._pending: dict[Any, ActorView] = {}
        self._restarts: list[tuple[float, ActorView]] = []  # (monotonic seconds when it is due, worker)
        self._progress: dict[Any, ActorView] = {}
        self._progress_at = self._grown_at = self._published_at = 0.0
        self._samples: dict[str, int] = {}  # by worker: what its running attempt had written when it last answered
        self._metrics: JobMetrics | None = None
        self._owns_cluster = self._started = False

    def start(self) -> None:
        """Join or start the cluster and create the actors. Raises UsageError when neither is possible."""
        self._owns_cluster = connect(self._config.execution)
        count, cpus, gpus = workers_and_resources(self._config, ray.cluster_resources())
        # Ray restarts lost processes, but repeats no call by itself: which attempts count is the scheduler's to decide.
        self._options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": -1, "max_task_retries": 0}
        self._add_workers(count)

    def live(self) -> int:
        """Workers that are starting, idle or busy."""
        return sum(worker.state != "failed" for worker in self._workers.values())

    def ready(self) -> int:
        """Workers that are idle or busy."""
        return sum(worker.state in ("idle", "busy") for worker in self._workers.values())

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
        """Start a worker again, as a new actor, after StartFailed."""
        view = self._workers[worker]
        ray.kill(view.actor)
        view.actor = self._new_actor()
        self._start(view)

    def poll(self, timeout: float) -> list[Event]:
        """Events since the last call; waits up to `timeout` seconds for the first.

        Raises the error of a worker that ends the job: RunInvalid, and UsageError for a wrong option.
        """
        self._grow()
        self._start_again()
        events: list[Event] = []
        if not self._pending:
            time.sleep(timeout)
        else:
            pending = list(self._pending)
            # All that have ended, without waiting; only when there is none, wait for one.
            ready, _ = ray.wait(pending, num_returns=len(pending), timeout=0)
            if not ready:
                ready, _ = ray.wait(pending, num_returns=1, timeout=timeout)
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
                    samples = ray.get(ref)
                    if samples != self._samples.get(worker.name):
                        worker.progressed_at = time.monotonic()
                    self._samples[worker.name] = samples
                except RayError:  # a lost worker has no progress; its loss is reported by its task
                    self._samples.pop(worker.name, None)
        busy = [worker for worker in self._workers.values() if worker.state == "busy"]
        if time.monotonic() - self._progress_at > _PROGRESS_SECONDS * max(1.0, len(busy) / 100):
            self._progress_at = time.monotonic()
            # A call may wait for a process that is restarting: no second one is sent to the same worker.
            asked = {worker.name for worker in self._progress.values()}
            unasked = [worker for worker in busy if worker.name not in asked]
            self._progress.update({worker.actor.progress.remote(): worker for worker in unasked})
        return sum(self._samples.get(worker.name, 0) for worker in busy)

    def progressed_at(self, task: Task) -> float:
        """When a running task was last seen to have written more samples, in monotonic seconds; 0 when it never was."""
        return next((view.progressed_at for view in self._workers.values() if view.task is task), 0.0)

    def publish(self, tally: Tally) -> None:
        """Set the job's Ray metrics, which Ray's agents serve to Prometheus; at most every two seconds."""
        if self._metrics is None:
            self._metrics = JobMetrics(self._config.out, metrics.Gauge, metrics.Counter)
        if time.monotonic() - self._published_at > _METRICS_SECONDS:
            self._published_at = time.monotonic()
            self._metrics.set(tally)

    def close(self) -> None:
        """End the actors, and the cluster if this pool started it."""
        for worker in self._workers.values():
            ray.kill(worker.actor)
        self._workers.clear()
        if self._owns_cluster:
            ray.shutdown()

    def _add_workers(self, count: int) -> None:
        for number in range(len(self._workers), len(self._workers) + count):
            worker = ActorView(name=f"worker-{number:03d}", actor=self._new_actor())
            self._workers[worker.name] = worker
            self._start(worker)

    def _grow(self) -> None:
        """Use nodes that joined after the start, unless the user has said how many workers there are."""
        if self._config.execution.workers is not None or time.monotonic() - self._grown_at < _GROW_SECONDS:
            return
        self._grown_at = time.monotonic()
        fitting = workers_that_fit(self._options["num_cpus"], self._options["num_gpus"], ray.cluster_resources())
        self._add_workers(max(0, fitting - len(self._workers)))

    def _start_again(self) -> None:
        """Start the workers whose pause is over."""
        now = time.monotonic()
        due = [worker for due_at, worker in self._restarts if due_at <= now]
        self._restarts = [(due_at, worker) for due_at, worker in self._restarts if due_at > now]
        for worker in due:
            self._start(worker)

    def _new_actor(self) -> Any:  # noqa: ANN401 - Ray's handle has no public type
        # Three calls at a time: process(), progress(), and start() of a driver that lost sight of the first.
        remote = ray.remote(_Actor).options(**self._options, max_concurrency=3)
        return remote.remote(self._config, max(1, int(self._options["num_cpus"])))

    def _start(self, worker: ActorView) -> None:
        worker.state = "starting"
        self._pending[worker.actor.start.remote()] = worker

    def _resolve(self, ref: Any, worker: ActorView) -> list[Event]:  # noqa: ANN401 - Ray's reference
        """Turn one finished call into events; a user's mistake or a full disk ends the job by raising."""
        try:
            value = ray.get(ref)
        except RayTaskError as error:
            return self._resolve_raised(worker, error.cause or error, str(error))
        except RayError as error:  # the process or its node is gone, out of memory, or out of reach
            return self._resolve_lost(worker, error)
        if worker.state == "starting":
            facts, worker.node = value
            worker.state, self._started = "idle", True
            return [Ready(worker=worker.name, facts=facts)]
        task, worker.state, worker.task = worker.task, "idle", None
        worker.broken = 0
        self._samples.pop(worker.name, None)
        assert task is not None
        return [Finished(task=task, record=value)]

    def _resolve_raised(self, worker: ActorView, cause: BaseException, trace: str) -> list[Event]:
        """The events of a call that raised `cause`; its process lives on."""
        # Where another worker has started, the options are right, and what stops this one is wrong with its node.
        mistake = isinstance(cause, UsageError) and not (worker.state == "starting" and self._started)
        if mistake or isinstance(cause, RunInvalid):
            raise cause
        sentence = str(cause) if isinstance(cause, ClipauditError) else f"{type(cause).__name__}: {cause}"
        if worker.state == "starting":
            worker.state = "failed"
            return [StartFailed(worker=worker.name, error=sentence, traceback=trace)]
        if isinstance(cause, WorkerNotLoaded):
            return self._resolve_lost(worker, cause)
        task, worker.state, worker.task = worker.task, "idle", None
        assert task is not None
        kind: FailureKind = "timeout" if isinstance(cause, ShardTooSlow) else "error"
        unforeseen = not isinstance(cause, (ClipauditError, *remote_errors()))
        if unforeseen:
            self._renew(worker)
        return [
            Failed(task=task, kind=kind, error=sentence, traceback=trace, worker=worker.name, unforeseen=unforeseen)
        ]

    def _renew(self, worker: ActorView) -> None:
        """Replace the process by a new one: after some errors, such as one of its GPU, every later call fails too."""
        ray.kill(worker.actor)
        worker.broken += 1
        worker.actor, worker.state = self._new_actor(), "starting"
        self._restarts.append((time.monotonic() + worker.pause(), worker))

    def _resolve_lost(self, worker: ActorView, error: BaseException) -> list[Event]:
        """The actor's process is gone: start it again, and report a running task once the cause is known."""
        sentence = str(error).strip().split("\n", 1)[0]
        if worker.state == "starting" and worker.lost_at is None and worker.node in {"", *_nodes_alive()}:
            worker.state = "failed"
            return [StartFailed(worker=worker.name, error=f"the process died: {sentence}", traceback=str(error))]
        if worker.state == "busy":
            worker.lost_at, worker.lost_error, worker.lost_node = time.monotonic(), sentence, worker.node
            self._samples.pop(worker.name, None)
        if isinstance(error, ActorDiedError):  # Ray does not restart it: a new actor takes its place
            worker.actor = self._new_actor()
        # A call that was lost while the process was starting fails at once; without a pause this would be a busy loop.
        pause = _RESTART_SECONDS if worker.state == "starting" else 0.0
        worker.state = "starting"
        self._restarts.append((time.monotonic() + pause, worker))
        return []

    def _settle_losses(self) -> list[Event]:
        """Report lost tasks whose cause is known: their node is dead, their worker is back, or the time is over."""
        lost = [worker for worker in self._workers.values() if worker.lost_at is not None and worker.task is not None]
        if not lost:
            return []
        events: list[Event] = []
        nodes = _nodes_alive()
        for worker in lost:
            assert worker.task is not None
            assert worker.lost_at is not None
            dead = bool(worker.lost_node) and worker.lost_node not in nodes
            back = worker.state in ("idle", "failed")
            if not (worker.killed or dead or back or time.monotonic() - worker.lost_at > _LOSS_SETTLES_SECONDS):
                continue
            kind: FailureKind = "timeout" if worker.killed else "node_lost" if dead else "worker_lost"
            sentence = f"{worker.task.shard.url}: the worker was lost: {worker.lost_error}"
            events.append(Failed(task=worker.task, kind=kind, error=sentence, worker=worker.name))
            worker.task, worker.lost_at, worker.killed = None, None, False
        return events


def connect(config: ExecutionConfig) -> bool:
    """Join the cluster that the job runs in or `address` names, else start a local one; True if it was started here.

    Does nothing where Ray is connected already. Raises UsageError when the cluster cannot be used,
    WorkersUnavailable when none starts here.
    """
    if ray.is_initialized():
        return False
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    local = address == "local"
    on_terminate = signal.getsignal(signal.SIGTERM)
    if local:  # a cluster of ours tells nobody that it runs; whoever wants Ray's usage statistics sets 1
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        # "local" is named, because ray.init() without an address joins whatever cluster runs on this machine.
        options = {"include_dashboard": False} if local else {}
        with_patience(lambda: ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options))
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        hint = "" if local else "; if it uses token authentication, set RAY_AUTH_MODE=token and the cluster's token"
        first_line = str(error).strip().split("\n", 1)[0]
        raise UsageError(f"Ray at address {address!r} cannot be used: {first_line}{hint}") from error
    if callable(on_terminate) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)  # Ray has replaced the handler by one that exits at once
    return local


def with_patience(start: Callable[[], _Result]) -> _Result:
    """What `start()` returns, which starts a node of Ray; called again if the node did not answer in time.

    Ray waits half a minute for it, which a busy machine can exceed. Raises WorkersUnavailable after the second time.
    """
    for _ in range(_NODE_STARTS):
        try:
            return start()
        except Exception as error:
            if _TIMED_OUT not in str(error):
                raise
            _end_node(error)
    raise WorkersUnavailable(
        f"Ray did not start within half a minute, {_NODE_STARTS} times: this machine is too busy or has too little "
        "memory; --engine local does without Ray"
    )


def _end_node(error: Exception) -> None:
    """End the processes of the node that raised `error`: Ray leaves them running until this process ends."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("self")
        if isinstance(node, Node):  # nothing else refers to it: its constructor has not returned
            node.kill_all_processes(check_alive=False, wait=True)


def _nodes_alive() -> set[str]:
    """Ray's ids of the nodes that are alive."""
    return {entry["NodeID"] for entry in ray.nodes() if entry["Alive"]}
