"""What runs in the process of a Ray actor: a worker behind few calls. Imports no ray, which `engine_ray` alone does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from clipaudit.config import JobConfig
from clipaudit.errors import ShardError
from clipaudit.job.protocol import Task, WorkerFacts
from clipaudit.run.records import CommitRecord

if TYPE_CHECKING:
    from clipaudit.job.worker import ShardWorker


class WorkerNotLoaded(ShardError):
    """The actor's process is new and has loaded no model yet: Ray restarted it between two calls."""


class WorkerActor:
    """A ShardWorker in an actor's process.

    `__init__` does no work that can fail, so that Ray can always restart the process. Ray makes up to three calls at
    the same time in threads: one `process`, one `progress`, and one `load` of a driver that lost sight of the first.
    """

    def __init__(self, config: JobConfig, threads: int) -> None:
        """Keep the job's configuration; `threads` is how many torch may use."""
        self._config = config
        self._threads = threads
        self._worker: ShardWorker | None = None
        self._cancel = threading.Event()
        self._model_lock = threading.Lock()  # held while a model is loaded or an attempt runs

    def load(self) -> WorkerFacts:
        """Load the model, once; an attempt that still runs here is given up first.

        Such an attempt is that of a driver which lost the connection to this process and calls it anew. Raises what the
        constructor of ShardWorker raises.
        """
        import torch

        from clipaudit.job.worker import ShardWorker

        # In this order: the running attempt sees the event at its next batch and releases the lock.
        self._cancel.set()
        with self._model_lock:
            self._cancel.clear()
            if self._worker is None:
                torch.set_num_threads(self._threads)
                self._worker = ShardWorker(self._config, self._cancel)
        return self._worker.facts

    def process(self, task: Task) -> CommitRecord:
        """Write one shard's files. Raises WorkerNotLoaded in a new process, else what ShardWorker.process raises."""
        worker = self._worker
        if worker is None:
            raise WorkerNotLoaded(f"{task.shard.url}: the worker was restarted")
        with self._model_lock:
            return worker.process(task)

    def progress(self) -> int:
        """Samples that the running attempt has written."""
        return 0 if self._worker is None else self._worker.samples_done


class ItemActor:
    """Calls the functions that it is given; for work that needs no model."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401 - whatever the function takes
        """`function(*arguments)`; raises what it raises."""
        return function(*arguments)
