"""The log for machines: every event is one JSON line whose keys are those that docs/cluster.md lists."""

import json
import re
import threading
from dataclasses import replace
from datetime import datetime

import pytest

from clipaudit.cli.console.job_log import JsonReporter
from clipaudit.cli.job import run_job as run_command
from clipaudit.config import ExecutionConfig, FieldsConfig, JobConfig, ModelConfig
from clipaudit.errors import Interrupted, RunInvalid
from clipaudit.job.driver import run_job
from clipaudit.job.engine_local import LocalPool
from clipaudit.job.progress import Tally
from clipaudit.job.protocol import StartFailed, Task
from clipaudit.schema import Shard
from tests.commands import ROOT
from tests.make_shards import jpeg_bytes, write_photos, write_shard

ROW = re.compile(r"\| `(\w+)` \| ((?:`\w+`(?:, )?)+) \|")
KEYS = {
    match[1]: set(re.findall(r"`(\w+)`", match[2])) for match in ROW.finditer((ROOT / "docs/cluster.md").read_text())
}


def lines(capsys):
    """The events so far, each checked against the documentation."""
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    for event in events:
        assert event.keys() - {"time", "event", "run"} == KEYS[event["event"]], event["event"]
        assert datetime.fromisoformat(event["time"]).tzinfo is not None
    return events


@pytest.fixture
def config(tmp_path, tiny_model):
    return JobConfig(
        shards=(f"{tmp_path}/*.tar",),
        out=str(tmp_path / "run"),
        model=ModelConfig(name=tiny_model, batch_size=4),
        fields=FieldsConfig(label="cls"),
        execution=ExecutionConfig(engine="local", max_attempts=2, max_lost_samples=1.0),
    )


def test_a_jobs_events_tell_each_shards_story(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("clipaudit.job.scheduler._BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr("clipaudit.cli.console.job_log._PROGRESS_SECONDS", 0.0)
    write_photos(tmp_path / "a.tar", 6)
    write_shard(tmp_path / "b.tar", {"good": {"jpg": jpeg_bytes(), "cls": 1}, "bad": {"jpg": b"no image", "cls": 1}})
    (tmp_path / "c.tar").write_bytes(b"this is no tar at all" * 100)
    with pytest.raises(RunInvalid), JsonReporter(config) as reporter:
        run_job(config, LocalPool(config), reporter, threading.Event())
    events = lines(capsys)
    names = [event["event"] for event in events]
    assert names[:3] == ["job_started", "worker_ready", "planned"]
    assert names[-2:] == ["job_done", "job_failed"]
    assert events[-1]["exit_code"] == 4
    of_shard = {
        n: [event for event in events if event.get("shard") == n and event["event"].startswith("shard_")]
        for n in range(3)
    }
    assert [event["event"] for event in of_shard[0]] == ["shard_began", "shard_committed"]
    assert [event["event"] for event in of_shard[2]] == ["shard_began", "shard_retry", "shard_began", "shard_failed"]
    assert "c.tar" in of_shard[2][1]["error"]
    committed = of_shard[1][1]
    assert (committed["rows"], committed["ok"], committed["skipped"]) == (2, 1, {"undecodable": 1})
    assert set(committed["stage_seconds"]) == {"read", "decode", "model", "write"}
    last = [event for event in events if event["event"] == "progress"][-1]
    assert last["shards"] == {"total": 3, "committed": 2, "running": 0, "queued": 0, "failed": 1}
    assert last["images"] == 8


def test_the_rarer_events_are_documented_too(config, capsys):
    task = Task(shard=Shard(id=7, url="/s7.tar", size=5, etag="e"), attempt="a", run_fingerprint="f", max_seconds=1.0)
    with JsonReporter(config) as reporter:
        reporter.superseded(task)
        reporter.worker_failed(StartFailed(worker="worker-000", error="no room", traceback=""))
        reporter.stopping("SIGTERM")
        reporter.warning("one job at a time")
        reporter.tick(Tally(shards_total=1, shards_committed=0))  # too early for a line
    names = [event["event"] for event in lines(capsys)]
    assert names == ["shard_superseded", "worker_failed", "stopping", "warning"]


@pytest.mark.parametrize(
    ("error", "code"),
    [(RunInvalid("lost"), 4), (OSError("no route, proxy http://me:planted-word@p"), 5)],
)
def test_the_last_line_says_how_the_process_will_end(config, capsys, error, code):
    with pytest.raises(type(error)), JsonReporter(config):
        raise error
    (last,) = lines(capsys)
    assert (last["event"], last["exit_code"]) == ("job_failed", code)
    assert "planted-word" not in last["error"]


def test_a_second_signal_ends_the_job_like_the_first(config, capsys, monkeypatch):
    """Not with the 130 of a KeyboardInterrupt: whoever tries again by the exit code must know that it may."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("clipaudit.job.driver.run_job", interrupted)
    with pytest.raises(Interrupted, match="stopped at once; the same command goes on"):
        run_command(replace(config, execution=replace(config.execution, log_format="json")), as_json=False)
    (last,) = lines(capsys)
    assert (last["event"], last["exit_code"]) == ("job_failed", 4)


def test_why_a_worker_could_not_start_is_told_without_credentials(config, capsys):
    with JsonReporter(config) as reporter:
        reporter.worker_failed(StartFailed(worker="w", error="secret_key=planted-word", traceback="token=planted-word"))
    (event,) = lines(capsys)
    assert event["error"] == "secret_key=[hidden]"


def test_the_command_writes_nothing_else(clipaudit, tmp_path, tiny_model):
    write_photos(tmp_path / "a.tar", 4)
    options = ["--out", tmp_path / "run", "--model", tiny_model, "--engine", "local", "--log-format", "json"]
    result = clipaudit("audit", tmp_path / "a.tar", *options)
    assert result.returncode == 0, result.stderr
    events = [json.loads(line)["event"] for line in result.stderr.splitlines()]
    assert events[-1] == "job_done"
    assert result.stdout == ""
    wrong = clipaudit("audit", tmp_path / "a.tar", *options[:-1], "xml")
    assert wrong.returncode == 2
    assert "--log-format" in wrong.stderr
