"""Every script in benchmarks/ runs to its end at its smallest sizes: a figure in the docs can be taken again."""

import atexit
import multiprocessing
import os
import runpy
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import pytest

from tests.commands import ROOT

SCRIPTS = sorted(path.name for path in (ROOT / "benchmarks").glob("*.py") if path.name != "options.py")
HEAVY = ("torch", "open_clip", "pyarrow.parquet", "scipy.stats", "sklearn.linear_model", "webdataset", "clipaudit.cues")
"""Imported once, by the server that every script's process is forked from: anew they would take four seconds each."""


@pytest.fixture(scope="module")
def forks():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(HEAVY))
    return context


def play(script: str, folder: str, log: str) -> None:
    """Run a script as `python benchmarks/SCRIPT --smoke` in `folder` does; what it prints goes to `log`."""
    with Path(log).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    warnings.resetwarnings()
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": str(ROOT), "TMPDIR": "/tmp", "OMP_NUM_THREADS": "1"}
    tempfile.tempdir = None
    sys.path.insert(0, str(ROOT / "benchmarks"))
    sys.argv = [str(ROOT / "benchmarks" / script), "--smoke"]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        atexit._run_exitfuncs()  # a forked process ends without them
        sys.stdout.flush()
        sys.stderr.flush()


@pytest.mark.full
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_runs_at_its_smallest_sizes(script, tmp_path, forks):
    log = tmp_path / "log.txt"
    process = forks.Process(target=play, args=(script, str(tmp_path), str(log)))
    process.start()
    process.join(600)
    ended = process.exitcode
    process.kill()
    process.join()
    said = log.read_text()
    assert ended == 0, said[-4000:]
    assert said.strip(), "a benchmark prints its figures"
