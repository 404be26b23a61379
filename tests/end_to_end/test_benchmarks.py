"""Every script in benchmarks/ runs to its end at its smallest sizes: a figure in the docs can be taken again.

Those that take long even so are started here, and run by `.ci/matrix benchmarks` before a release.
"""

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
LONG = (
    *(
        "audit.py",
        "decode.py",
        "decomposer.py",
        "extremes.py",
        "index.py",
        "localize.py",
        "offobject.py",
        "peers.py",
        "report.py",
        "roles.py",
    ),
)
"""More than ten seconds of a core."""
HEAVY = ("torch", "open_clip", "pyarrow.parquet", "scipy.stats", "sklearn.linear_model", "webdataset", "clipaudit.cues")
"""Imported once, by the server that every script's process is forked from: anew they would take four seconds each."""


@pytest.fixture(scope="module")
def forks():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(HEAVY))
    return context


def play(script: str, option: str, folder: str, log: str) -> None:
    """Run a script as `python benchmarks/SCRIPT OPTION` in `folder` does; what it prints goes to `log`."""
    with Path(log).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    warnings.resetwarnings()
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": str(ROOT), "TMPDIR": "/tmp", "OMP_NUM_THREADS": "1"}
    tempfile.tempdir = None
    sys.path.insert(0, str(ROOT / "benchmarks"))
    sys.argv = [str(ROOT / "benchmarks" / script), option]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        atexit._run_exitfuncs()  # a forked process ends without them
        sys.stdout.flush()
        sys.stderr.flush()


def ran(forks, script, option, folder):
    """What it printed. AssertionError with its end when it fails."""
    log = folder / "log.txt"
    process = forks.Process(target=play, args=(script, option, str(folder), str(log)))
    process.start()
    process.join(600)
    ended = process.exitcode
    process.kill()
    process.join()
    assert ended == 0, log.read_text()[-4000:]
    return log.read_text()


@pytest.mark.parametrize(
    "script", [pytest.param(name, marks=pytest.mark.slow if name in LONG else pytest.mark.full) for name in SCRIPTS]
)
def test_a_benchmark_runs_at_its_smallest_sizes(script, tmp_path, forks):
    assert ran(forks, script, "--smoke", tmp_path).strip(), "a benchmark prints its figures"


@pytest.mark.full
@pytest.mark.parametrize("script", LONG)
def test_one_that_takes_long_finds_what_it_imports(script, tmp_path, forks):
    assert script in ran(forks, script, "--help", tmp_path)
