"""The pool of `--engine local`: one worker in a thread, so that the driver shows progress and hears signals."""

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
    """One in-process worker as a scheduler's Pool. A bug or a full disk raises from `poll`, as from a plain call."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clipaudit-worker")
        self._cancel = threading.Event()
        self._worker: ShardWorker | None = None
        self._future: Future[Any] | None = None
        self._task: Task | None = None

    def start(self) -> None:
        """Begin to load the model."""
        from clipaudit.job.worker import ShardWorker  # torch loads here, not at `clipaudit --help`

        self._future = self._executor.submit(ShardWorker, self._config, self._cancel)

    def live(self) -> int:
        """Always 1: a worker that cannot start raises."""
        return 1

    def ready(self) -> int:
        """1 once the model is loaded."""
        return int(self._worker is not None)

    def idle(self) -> int:
        """1 when the worker is ready and has no task."""
        return int(self._worker is not None and self._future is None)

    def submit(self, task: Task) -> None:
        """Hand the worker a task."""
        assert self._worker is not None
        self._cancel.clear()  # a task that ended well just as it was to be killed leaves it set
        self._task = task
        self._future = self._executor.submit(self._worker.process, task)

    def kill(self, task: Task) -> None:
        """Ask the worker to give its task up at the next batch."""
        self._cancel.set()

    def restart(self, worker: str) -> None:
        """Load the model again."""
        self.start()

    def poll(self, timeout: float) -> list[Event]:
        """The next event, if one comes within `timeout` seconds."""
        if self._future is None:
            time.sleep(timeout)  # every shard waits for its next attempt
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

    def publish(self, tally: Tally) -> None:
        """Nobody collects figures from a single process."""

    def close(self) -> None:
        """End the worker at its next batch."""
        self._cancel.set()
        self._executor.shutdown(wait=True, cancel_futures=True)
