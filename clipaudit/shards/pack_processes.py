"""The processes that write shards for `pack`: started early, ended with it, however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Final, Self

from clipaudit.shards.pack_child import task_line
from clipaudit.shards.pack_writer import ShardSummary, ShardTask, write_shard

_PROGRAM: Final = (sys.executable, "-m", "clipaudit.shards.pack_child")


class ShardProcesses:
    """Writes shards in `workers` processes, or in this one if that is 1. A context manager."""

    def __init__(self, workers: int) -> None:
        """Start the processes; they load while the source is listed. Raises OSError."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._children = [
            subprocess.Popen(_PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
            for _ in range(workers if workers > 1 else 0)
        ]
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for child in self._children:
            self._idle.put(child)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            child.kill()  # what it is writing is aside, and removed by the next pack
            child.communicate()

    def write(self, tasks: Iterable[ShardTask]) -> Iterator[ShardSummary]:
        """Write all shards; each summary as soon as its shard is there, in any order. Raises OSError."""
        if not self._children:
            yield from map(write_shard, tasks)
            return
        # A thread for each process waits for its answers.
        with ThreadPoolExecutor(len(self._children)) as threads:
            running: set[Future[ShardSummary]] = set()
            try:
                for task in tasks:
                    running.add(threads.submit(self._ask, task))
                    if len(running) > len(self._children):  # one task waits; more would hold their lists in memory
                        yield from _finished(running)
                while running:
                    yield from _finished(running)
            except BaseException:  # also KeyboardInterrupt, and GeneratorExit where the caller takes no more
                for child in self._children:
                    child.kill()  # so that no thread waits for an answer
                raise

    def _ask(self, task: ShardTask) -> ShardSummary:
        child = self._idle.get()
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            line = b""
            with contextlib.suppress(BrokenPipeError):  # it ended before the task reached it
                child.stdin.write(task_line(task))
                child.stdin.flush()
                line = child.stdout.readline()
        finally:
            self._idle.put(child)
        if not line:
            raise OSError(0, "a process that writes shards ended before its shard was written", task.path)
        answer = json.loads(line)
        if isinstance(answer, list):
            raise OSError(*answer)
        return ShardSummary(**answer)


def _finished(running: set[Future[ShardSummary]]) -> Iterator[ShardSummary]:
    """Wait for at least one shard; take those that are written out of `running`."""
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        running.remove(future)
        yield future.result()
