"""Faults that strike inside a worker, and the driver that runs with such workers.

    python -m tests.cluster.faults CONFIG.json      `clipaudit audit --log-format json` with workers that can be struck

A fault is a file in the folder that CHAOS_FAULTS names; the first attempt that moves it away suffers it.
"""

import json
import os
import resource
import signal
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

from clipaudit.job import engine_ray, scheduler

IN_WORKERS = (
    "killed before it began",
    "killed in mid shard",
    "killed after its files were written",
    "read error",
    "out of memory",
    "hangs",
    "slow store",
    "clock off by days",
    "disk full",
)
BATCH_SECONDS = 0.04


def claim(folder):
    """One fault of those that wait, or None; never the same to two workers."""
    for path in sorted(folder.glob("*.waiting")):
        try:
            path.rename(path.with_suffix(".struck"))
        except FileNotFoundError:
            continue
        return path.read_text() if path.exists() else path.with_suffix(".struck").read_text()
    return None


class FaultyActor(engine_ray._Actor):
    """A worker that takes its time over each batch and suffers the faults that wait for it."""

    def process(self, task):
        fault = claim(Path(os.environ["CHAOS_FAULTS"]))
        if fault == "killed before it began":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "clock off by days":
            shift_clock(days=-3 if task.shard.id % 2 else 3)
        submit, batches = self._worker._submit, []

        def submit_with_faults(samples):
            batches.append(len(samples))
            time.sleep(0.5 if fault == "slow store" else BATCH_SECONDS)
            if len(batches) == 2:
                self._strike(fault)
            return submit(samples)

        self._worker._submit = submit_with_faults
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            if fault == "disk full":  # to a process the same as a quota: EFBIG while the rows are written
                resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limit[1]))
            record = super().process(task)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            self._worker._submit = submit
        if fault == "killed after its files were written":
            os.kill(os.getpid(), signal.SIGKILL)
        return record

    def _strike(self, fault):
        if fault == "killed in mid shard":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "read error":
            raise ConnectionResetError("the connection to the store was reset")
        if fault == "hangs":
            time.sleep(3600)
        if fault == "out of memory":
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            limit = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, limit[1]))
            try:
                bytearray(2**31)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, limit)


def shift_clock(days):
    """Let this process believe that it is another day."""
    from clipaudit.run import records

    class Shifted(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=days)

    true = time.time
    records.datetime = Shifted
    time.time = lambda: true() + 86400 * days


def main():
    from pydantic import TypeAdapter

    from clipaudit.cli.console.job_log import JsonReporter
    from clipaudit.config import JobConfig
    from clipaudit.errors import ClipauditError
    from clipaudit.job.driver import run_job
    from clipaudit.job.engine_ray import RayPool

    config = TypeAdapter(JobConfig).validate_python(json.loads(Path(sys.argv[1]).read_text()))
    engine_ray._Actor = FaultyActor
    scheduler._KILL_GRACE_SECONDS, scheduler._BACKOFF_SECONDS = 2.0, 0.2
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        with JsonReporter(config) as reporter:
            run_job(config, RayPool(config), reporter, stop)
    except ClipauditError as error:
        sys.exit(error.exit_code)


if __name__ == "__main__":
    # a class of __main__ would be pickled by value, without its module's globals being shared
    from tests.cluster import faults

    faults.main()
