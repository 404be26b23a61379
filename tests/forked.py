"""Processes that begin as forks of one that has imported what takes seconds, for tests that end them or look at them.

A test that asks what a fresh interpreter does uses `tests.commands.spawn`.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

from tests.commands import ROOT

HEAVY = ("torch", "open_clip", "pyarrow.parquet", "scipy.stats", "webdataset", "clipaudit.cues")


@functools.cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(HEAVY))
    return context


class Forked:
    """`call(*arguments)` in a process of its own that stands in `folder`, with the methods of `subprocess.Popen`."""

    def __init__(self, folder: Path, call: Callable[..., object], *arguments: object) -> None:
        self._texts = [Path(tempfile.mkstemp(dir=folder, suffix=suffix)[1]) for suffix in (".out", ".err")]
        inside = (str(folder), *map(str, self._texts), call, arguments)
        self._process = _context().Process(target=_inside, args=inside)
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        """Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to stdout and stderr, when it has ended; a process that does not end in time is killed."""
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        out, err = (path.read_text() for path in self._texts)
        return out, err


def run_script(script: str, *options: str) -> None:
    """What `python SCRIPT OPTIONS` does; `script` is below the root of the checkout."""
    path = ROOT / script
    sys.path.insert(0, str(path.parent))
    sys.argv = [str(path), *options]
    runpy.run_path(str(path), run_name="__main__")


def run_command(*words: str) -> None:
    """What `clipaudit WORDS` does."""
    from clipaudit.__main__ import main

    sys.argv = ["clipaudit", *words]
    main()


def _inside(folder: str, out: str, err: str, call: Callable[..., object], arguments: tuple[object, ...]) -> None:
    for number, name in enumerate((out, err), 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), number)
    warnings.resetwarnings()
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": str(ROOT), "TMPDIR": "/tmp", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    tempfile.tempdir = None
    try:
        call(*arguments)
    except Exception:
        traceback.print_exc()
        raise
    finally:
        atexit._run_exitfuncs()  # a forked process ends without them
        sys.stdout.flush()
        sys.stderr.flush()
