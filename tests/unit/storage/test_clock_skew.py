"""Machines whose clocks are days apart: what a job is writing is never taken for old."""

import os
import time

import pytest

from clipaudit.run.upkeep import gc, status
from tests.make_runs import make_run

DAY = 86400.0


@pytest.fixture
def run_dir(tmp_path):
    directory = make_run(str(tmp_path / "run"))
    for name in ("projections/000007-running.parquet", "_attempts/000007-running.json"):
        (tmp_path / "run" / name).write_bytes(b"half")
    return directory


@pytest.mark.parametrize("days", [-3, 3])
def test_gc_spares_what_is_young_by_the_stores_clock(run_dir, monkeypatch, days):
    true = time.time
    monkeypatch.setattr("time.time", lambda: true() + days * DAY)
    assert gc(run_dir) == [], "this machine's clock is wrong, and the job's file is seconds old"
    assert gc(run_dir, dry_run=True) == []


def test_gc_removes_what_is_old_by_the_stores_clock(run_dir, tmp_path, monkeypatch):
    old = tmp_path / "run/projections/000007-running.parquet"
    os.utime(old, (true_time := time.time() - DAY, true_time))
    monkeypatch.setattr("time.time", lambda: true_time - DAY)
    assert gc(run_dir) == ["projections/000007-running.parquet"]
    assert not list((tmp_path / "run").glob(".clock*"))


def test_gc_spares_everything_where_the_store_stamps_no_files(run_dir, monkeypatch):
    monkeypatch.setattr("clipaudit.storage.directory._modified", lambda info: None)
    assert gc(run_dir) == []
    assert status(run_dir).bytes_orphaned > 0
