"""Watching a run: counts, speed and time left from what is in the run directory, read a little at a time."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from clipaudit.cli.console.watch import duration, panel
from clipaudit.errors import RunNotFound
from clipaudit.job.watch import Watcher
from clipaudit.run.directory import RunDirectory
from clipaudit.run.records import CommitRecord, FailureRecord, StoredFile
from tests.make_runs import make_manifest, make_shard

FILE = StoredFile(bytes=1, sha256="00")


@pytest.fixture
def run_dir(tmp_path):
    directory = RunDirectory(str(tmp_path / "run"))
    directory.create_or_resume(make_manifest(shards=tuple(make_shard(n, size=1000) for n in range(8))))
    return directory


def record_at(shard, minute, second, seconds=30.0):
    return CommitRecord(
        shard_id=shard,
        url=make_shard(shard).url,
        attempt="a",
        files={f"projections/{shard:06d}-a.parquet": FILE, f"moments/{shard:06d}-a.safetensors": FILE},
        rows=100,
        ok=98,
        skipped={"undecodable": 2},
        input_size=1000,
        bytes_good=1000,
        timings={"model": 0.9 * seconds, "read": 1.0, "total": seconds},
        committed_at=f"2026-01-01T00:{minute:02d}:{second:02d}+00:00",
    )


def test_before_the_first_commit_there_is_no_speed(run_dir):
    sight = Watcher(run_dir).look()
    assert (sight.shards, sight.committed, sight.seconds_left, sight.images_per_second) == (8, 0, None, 0.0)
    assert not sight.done


def test_speed_and_time_left_are_those_of_all_workers_together(run_dir):
    # two workers side by side: four shards of half a minute in one minute
    for shard, (minute, second) in enumerate([(1, 0), (1, 0), (1, 30), (1, 30)]):
        run_dir.commit(record_at(shard, minute, second))
    sight = Watcher(run_dir).look()
    assert sight.images_per_second == pytest.approx(400 / 60)
    assert sight.seconds_left == pytest.approx(60)
    assert sight.bottleneck == "model 90 % busy"
    assert sight.skipped == {"undecodable": 8}
    assert (sight.ok, sight.rows, sight.bytes_committed) == (392, 400, 4000)


def test_a_pause_between_two_jobs_is_not_slowness(run_dir):
    run_dir.commit(record_at(0, 1, 0))
    run_dir.commit(record_at(1, 50, 0))
    assert Watcher(run_dir).look().images_per_second == pytest.approx(200 / 60)


def test_each_look_reads_only_what_is_new(run_dir, monkeypatch):
    watcher = Watcher(run_dir)
    read = []
    monkeypatch.setattr(
        run_dir.storage, "read_many", lambda paths, real=run_dir.storage.read_many: real(read.extend(paths) or paths)
    )
    for shard in range(3):
        run_dir.commit(record_at(shard, 1, shard))
        assert watcher.look().committed == shard + 1
    assert len(read) == len(set(read)) == 3


def test_attempts_and_failures_are_counted_and_end_the_watch(run_dir):
    watcher = Watcher(run_dir)
    run_dir.begin_attempt(6, "b")
    run_dir.begin_attempt(7, "b")
    for shard in range(7):
        run_dir.commit(record_at(shard, 1, shard))
    sight = watcher.look()
    assert (sight.committed, sight.attempts, sight.failed, sight.done) == (7, 1, 0, False)
    failure = FailureRecord(shard_id=7, url="u", attempts=3, kind="error", error="no tar")
    run_dir.record_failure(failure)
    run_dir.record_failure(replace(failure, shard_id=3))  # of an earlier job: it is committed now
    sight = watcher.look()
    assert (sight.attempts, sight.failed, sight.done) == (0, 1, True)


def test_no_run_is_one_sentence(tmp_path):
    with pytest.raises(RunNotFound):
        Watcher(str(tmp_path / "nothing"))


def test_the_panel_shows_it_all(run_dir):
    for shard in range(2):
        run_dir.commit(record_at(shard, 1, 0))
    console = Console(width=100, file=io.StringIO())
    console.print(panel(Watcher(run_dir).look()))
    text = console.file.getvalue()
    assert "2 of 8 committed" in text
    assert "196 ok; skipped: 4 undecodable" in text
    assert "6.7 images/s, model 90 % busy, 2 min left" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "less than a minute"), (90, "2 min"), (3600 * 3 + 60 * 7, "3 h 7 min"), (86400 * 3 + 7200, "3 d 2 h")],
)
def test_durations_are_as_exact_as_estimates_can_be(seconds, text):
    assert duration(seconds) == text


def test_the_command_ends_with_the_run(clipaudit, run_dir):
    for shard in range(8):
        run_dir.commit(record_at(shard, 1, shard))
    result = clipaudit("status", run_dir.url, "--watch", "--interval", "0.1")
    assert result.returncode == 0
    assert result.stdout == "8 of 8 shards, 784 images ok, done\n"
    result = clipaudit("status", run_dir.url, "--watch", "--json")
    assert json.loads(result.stdout)["committed"] == 8
