"""The messages between driver and workers, the pool of workers as the driver sees it, and the observers of a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from clipaudit.job.progress import Tally
from clipaudit.redact import redact
from clipaudit.run.records import CommitRecord, FailureRecord
from clipaudit.schema import Shard, TableSpec


@dataclass(frozen=True, kw_only=True)
class WorkerFacts:
    """What a worker reports once its model is loaded; the facts of a job's first worker describe the run."""

    model: dict[str, Any]
    """Name, weights, fingerprint, preprocessing and tower of the model, as plain JSON values."""
    table: TableSpec
    """What the worker stores of each image."""
    host: str
    """Name of the machine."""
    device: str
    """Torch device of the model, such as `cuda:0`."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One attempt at one shard."""

    shard: Shard
    attempt: str
    """Unique name of the attempt; part of the names of the files that it writes."""
    run_fingerprint: str
    """Of the run's configuration and weights; goes into the files' footers."""
    max_seconds: float
    """The worker gives the attempt up after this time."""
    generation: int = 0
    """That added the shard to the run."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A worker has loaded its model."""

    worker: str
    facts: WorkerFacts


class _WithError:
    """An event with an `error` and its `traceback`, redacted: they quote what a library put into its message."""

    def __post_init__(self) -> None:
        for name in ("error", "traceback"):
            object.__setattr__(self, name, redact(getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class StartFailed(_WithError):
    """A worker could not be started or could not load its model."""

    worker: str
    error: str
    traceback: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A worker wrote a shard's files; nothing is committed yet."""

    task: Task
    record: CommitRecord


FailureKind: TypeAlias = Literal["error", "timeout", "worker_lost", "node_lost"]


@dataclass(frozen=True, kw_only=True)
class Failed(_WithError):
    """An attempt ended without a result."""

    task: Task
    kind: FailureKind
    """`error` and `timeout` count against the shard, `worker_lost` if the attempt had begun, `node_lost` never."""
    error: str
    traceback: str = ""
    worker: str = ""
    unforeseen: bool = False
    """The error is not one that a shard or a store can cause, so that the worker itself may be broken."""


Event: TypeAlias = Ready | StartFailed | Finished | Failed


class Pool(Protocol):
    """Workers as the scheduler sees them: `engine_local.LocalPool` or `engine_ray.RayPool`. For one thread's use."""

    def start(self) -> None:
        """Start the workers, without waiting for them: a Ready or StartFailed event of each follows."""

    def live(self) -> int:
        """Workers that are starting, idle or busy."""

    def ready(self) -> int:
        """Workers that are idle or busy."""

    def idle(self) -> int:
        """Workers that are ready and have no task."""

    def submit(self, task: Task) -> None:
        """Give a task to an idle worker; a Finished or Failed event follows."""

    def kill(self, task: Task) -> None:
        """End the worker that is stuck on a task; a Failed event of kind `timeout` follows."""

    def restart(self, worker: str) -> None:
        """Start a worker again after StartFailed."""

    def poll(self, timeout: float) -> list[Event]:
        """Events since the last call; waits up to `timeout` seconds for the first.

        Raises errors that end the job, such as StorageFull or a UsageError of the worker's options.
        """

    def progress(self) -> int:
        """Samples that the running attempts have written so far."""

    def progressed_at(self, task: Task) -> float:
        """When a running task was last seen to have written samples, in monotonic seconds; 0 when it never was."""

    def publish(self, tally: Tally) -> None:
        """Pass the job's counts to the engine's metrics, if it has any."""

    def close(self) -> None:
        """End every worker."""


class Observer:
    """Base class of what follows a job. Every method does nothing; all are called in the driver's own thread."""

    def tick(self, tally: Tally) -> None:
        """Called about twice a second while shards are processed, and at the end."""

    def worker_ready(self, ready: Ready) -> None:
        """A worker has loaded its model, for the first time or again."""

    def worker_failed(self, failed: StartFailed) -> None:
        """A worker could not be started; it is tried again up to `max_init_failures` times in a row."""

    def began(self, task: Task) -> None:
        """A shard was given to a worker."""

    def committed(self, task: Task, record: CommitRecord) -> None:
        """A shard is committed: readers of the run see its rows from now on."""

    def superseded(self, task: Task) -> None:
        """Another driver of this run committed the shard first; this attempt's files were removed."""

    def retry(self, failed: Failed, counted: int) -> None:
        """An attempt failed and its shard goes back to the queue; `counted` of its attempts count so far."""

    def gave_up(self, task: Task, failure: FailureRecord) -> None:
        """A shard is recorded under `_failed/`."""
