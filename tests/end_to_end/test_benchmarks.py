"""Every script in benchmarks/ runs to its end at its smallest sizes: a figure in the docs can be taken again."""

import os
import subprocess
import sys

import pytest

from tests.commands import ROOT

SCRIPTS = sorted(path.name for path in (ROOT / "benchmarks").glob("*.py") if path.name != "options.py")


@pytest.mark.full
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_runs_at_its_smallest_sizes(script, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": "/tmp", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / script, "--smoke"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip(), "a benchmark prints its figures"
