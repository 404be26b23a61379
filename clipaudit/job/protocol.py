"""The small messages between driver and workers, what the driver needs of a pool, and who may follow a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from clipaudit.job.progress import Tally
from clipaudit.redact import redact
from clipaudit.run.records import CommitRecord, FailureRecord
from clipaudit.schema import Shard, TableSpec


@dataclass(frozen=True, kw_only=True)
class WorkerFacts:
    """What a worker knows once its model is loaded; the first worker's facts describe the run."""

    model: dict[str, Any]
    """Name, weights, fingerprint, preprocessing and tower of the model, as plain JSON values."""
    table: TableSpec
    host: str
    device: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """One attempt at one shard."""

    shard: Shard
    attempt: str
    """Unique name of the attempt; part of the names of the files that it writes."""
    run_fingerprint: str
    max_seconds: float


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A worker has loaded its model."""

    worker: str
    facts: WorkerFacts


class _Reason:
    """An error's text as it may be shown: it quotes whatever a library put into its message."""

    def __post_init__(self) -> None:
        for name in ("error", "traceback"):
            object.__setattr__(self, name, redact(getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class StartFailed(_Reason):
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
class Failed(_Reason):
    """An attempt ended without a result."""

    task: Task
    kind: FailureKind
    """`error` and `timeout` count against the shard, `worker_lost` if the attempt had begun, `node_lost` never."""
    error: str
    traceback: str = ""
    worker: str = ""
    unforeseen: bool = False
    """The error is none of those that a shard or a store can cause: the worker itself may be what is broken."""


Event: TypeAlias = Ready | StartFailed | Finished | Failed


class Pool(Protocol):
    """Workers as the scheduler sees them; in-process (`local.LocalPool`) or on Ray (`cluster.RayPool`)."""

    def start(self) -> None:
        """Begin to start the workers; each ends in a Ready or StartFailed event."""

    def live(self) -> int:
        """Workers that are starting, idle or busy."""

    def ready(self) -> int:
        """Workers that are idle or busy."""

    def idle(self) -> int:
        """Workers that are ready and have no task."""

    def submit(self, task: Task) -> None:
        """Hand a task to an idle worker."""

    def kill(self, task: Task) -> None:
        """End the worker that is stuck on a task; a Failed event of kind `timeout` follows."""

    def restart(self, worker: str) -> None:
        """Start a worker again after StartFailed."""

    def poll(self, timeout: float) -> list[Event]:
        """Events since the last call; waits up to `timeout` seconds for the first."""

    def progress(self) -> int:
        """Samples that the running attempts have finished so far."""

    def publish(self, tally: Tally) -> None:
        """Give the job's figures to whoever collects figures where the pool runs."""

    def close(self) -> None:
        """End every worker."""


class Observer:
    """Whoever follows a job. Does nothing: override what is of interest. Called in the driver's own thread."""

    def tick(self, tally: Tally) -> None:
        """Called about twice a second while shards are processed, and at the end."""

    def worker_ready(self, ready: Ready) -> None:
        """A worker has loaded its model, for the first time or again."""

    def worker_failed(self, failed: StartFailed) -> None:
        """A worker could not be started; a few times in a row it is tried again."""

    def began(self, task: Task) -> None:
        """A shard was given to a worker."""

    def committed(self, task: Task, record: CommitRecord) -> None:
        """A shard's files count from now on."""

    def superseded(self, task: Task) -> None:
        """Another driver of this run committed the shard first; this attempt's files are gone."""

    def retry(self, failed: Failed, counted: int) -> None:
        """An attempt failed and its shard goes back to the queue; `counted` attempts of it count so far."""

    def gave_up(self, task: Task, failure: FailureRecord) -> None:
        """A shard is recorded under `_failed/`."""
