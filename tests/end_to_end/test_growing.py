"""Appends that are killed at their writes, in processes of their own: nothing lost, nothing twice, no wrong label."""

import json
import subprocess
import sys

import pytest

from tests.commands import ROOT


def survived(tmp_path, faults, seed):
    command = [sys.executable, "-m", "tests.growing_faults", "--faults", str(faults), "--seed", str(seed)]
    command += ["--folder", str(tmp_path / "t")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
    assert result.stdout, result.stderr[-4000:]
    counts = json.loads(result.stdout)
    assert counts.pop("faults") >= faults
    assert counts == dict.fromkeys(counts, 0)
    assert {"lost", "repeated", "mislabelled", "orphans"} <= counts.keys()


@pytest.mark.full
def test_appends_killed_at_their_first_writes_lose_nothing(tmp_path):
    survived(tmp_path, 6, 0)


@pytest.mark.slow
def test_appends_killed_at_every_write_lose_nothing(tmp_path):
    survived(tmp_path, 60, 1)
