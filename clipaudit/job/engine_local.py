"""One worker without Ray, in a thread of this process, so that the driver can show progress and handle signals."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, TypeVar

from clipaudit.config import ExecutionConfig, JobConfig
from clipaudit.errors import ShardError, ShardTooSlow
from clipaudit.job.progress import Tally
from clipaudit.job.protocol import Event, Failed, FailureKind, Finished, Ready, Task
from clipaudit.storage.remote import remote_errors

if TYPE_CHECKING:
    from clipaudit.job.worker import ShardWorker

_NAME = "local"

IN_THIS_PROCESS = True

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def make_pool(config: JobConfig) -> LocalPool:
    """One worker in this process for one job; it is not started yet."""
    return LocalPool(config)


def map_items(
    function: Callable[[_Item, int, int], _Result], items: Sequence[_Item], execution: ExecutionConfig
) -> Iterator[_Result]:
    """`function(item, threads, 1)` for one item after another, in their order, with a thread for each CPU."""
    for item in items:
        yield function(item, os.cpu_count() or 1, 1)


class LocalPool:
    """One worker in this process as a scheduler's Pool; errors that are not a shard's are raised by `poll`.

    The only thread of `_executor` loads the model and runs the attempts, so that there is one future at a time: of a
    start (`_task` is None) or of an attempt. All methods are called in the driver's thread.
    """

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clipaudit-worker")
        self._cancel = threading.Event()
        self._worker: ShardWorker | None = None
        self._future: Future[Any] | None = None
        self._task: Task | None = None

    def start(self) -> None:
        """Start to load the model."""
        from clipaudit.job.worker import ShardWorker  # imports torch, which commands that run no job do not need

        self._future = self._executor.submit(ShardWorker, self._config, self._cancel)

    def live(self) -> int:
        """Always 1: the error of a worker that cannot start is raised by `poll`."""
        return 1

    def ready(self) -> int:
        """1 once the model is loaded."""
        return int(self._worker is not None)

    def idle(self) -> int:
        """1 when the worker is ready and has no task."""
        return int(self._worker is not None and self._future is None)

    def submit(self, task: Task) -> None:
        """Give the worker a task."""
        assert self._worker is not None
        # An attempt that ended by itself just as `kill` was called leaves the event set: it must not end the next one.
        self._cancel.clear()
        self._task = task
        self._future = self._executor.submit(self._worker.process, task)

    def kill(self, task: Task) -> None:
        """Tell the worker to give its task up at the next batch: a thread cannot be killed."""
        self._cancel.set()

    def restart(self, worker: str) -> None:
        """Load the model again."""
        self.start()

    def poll(self, timeout: float) -> list[Event]:
        """The next event, if one comes within `timeout` seconds; raises what ends the job."""
        if self._future is None:
            time.sleep(timeout)  # nothing runs: every shard that is left waits for its next attempt
            return []
        if not wait([self._future], timeout=timeout).done:
            return []
        future, self._future = self._future, None
        if self._task is None:
            worker: ShardWorker = future.result()
            self._worker = worker
            return [Ready(worker=_NAME, facts=worker.facts)]
        task, self._task = self._task, None
        error = future.exception()
        if error is None:
            return [Finished(task=task, record=future.result())]
        if not isinstance(error, (ShardError, *remote_errors())):
            raise error
        kind: FailureKind = "timeout" if isinstance(error, ShardTooSlow) else "error"
        trace = "".join(traceback.format_exception(error))
        return [Failed(task=task, kind=kind, error=str(error), traceback=trace, worker=_NAME)]

    def progress(self) -> int:
        """Samples that the running attempt has written."""
        return self._worker.samples_done if self._worker is not None and self._task is not None else 0

    def progressed_at(self, task: Task) -> float:
        """When the running attempt last wrote samples, in monotonic seconds."""
        return self._worker.progressed_at if self._worker is not None and self._task is task else 0.0

    def publish(self, tally: Tally) -> None:
        """Do nothing: this engine has no metrics."""

    def close(self) -> None:
        """End the worker at its next batch, and wait for that."""
        self._cancel.set()
        self._executor.shutdown(wait=True, cancel_futures=True)
