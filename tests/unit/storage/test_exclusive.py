"""Stores that cannot refuse to overwrite: found out, said once, and no row is lost even where two jobs meet."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from clipaudit.cli.console.job import ConsoleReporter
from clipaudit.cli.console.job_log import JsonReporter
from clipaudit.config import ExecutionConfig, JobConfig, ModelConfig
from clipaudit.errors import RunMismatch, StoreUnavailable
from clipaudit.job.driver import run_job
from clipaudit.job.engine_local import LocalPool
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.storage.directory import Storage
from tests.make_runs import SPEC, make_manifest, make_samples, make_shard, make_vectors, write_attempt
from tests.make_shards import write_photos


@pytest.fixture
def url(tmp_path):
    return f"memory://{tmp_path}/run"


@pytest.fixture
def overwrites(monkeypatch):
    """A file system that knows no exclusive creation: fsspec looks, and then writes."""
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", AbstractFileSystem.pipe_file)


def test_a_file_system_that_looks_and_then_writes_is_not_exclusive(url, overwrites, tmp_path):
    assert not Storage(url).exclusive
    assert Storage(str(tmp_path)).exclusive


def test_a_file_system_that_creates_in_one_step_is_exclusive(url):
    assert Storage(url).exclusive


def test_trouble_is_not_taken_for_a_name_that_is_free(url, overwrites, monkeypatch):
    """fsspec's own exists() says no to whatever goes wrong: a commit that is there would be overwritten."""
    storage = Storage(url)
    assert storage.create("a.json", b"first")
    asked, true = [], MemoryFileSystem.info

    def info(self, path, **options):
        asked.append(path)
        if len(asked) == 1:
            raise TimeoutError("the store did not answer")
        return true(self, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "info", info)
    monkeypatch.setattr("clipaudit.storage.remote._FIRST_PAUSE_SECONDS", 0.0)
    assert not storage.create("a.json", b"second")
    assert storage.read("a.json") == b"first"

    def never(self, path, **options):
        raise TimeoutError("the store did not answer")

    monkeypatch.setattr(MemoryFileSystem, "info", never)
    with pytest.raises(StoreUnavailable):
        storage.exists("a.json")


def together(monkeypatch, path):
    """Two drivers look for `path` at the same instant: neither finds it, both write it, and then go on."""
    both = threading.Barrier(2)

    def meeting(call):
        def meet(self, name, *content):
            result = call(self, name, *content)
            if name == path:
                both.wait(30)
            return result

        return meet

    monkeypatch.setattr(Storage, "exists", meeting(Storage.exists))
    monkeypatch.setattr(Storage, "replace", meeting(Storage.replace))


def test_two_drivers_that_commit_a_shard_at_once_leave_one_whole_attempt(url, overwrites, monkeypatch):
    RunDirectory(url).create_or_resume(make_manifest(shards=1))
    together(monkeypatch, "_committed/000000.json")

    def drive(rows):
        run_dir = RunDirectory(url)
        record = write_attempt(run_dir, make_shard(0), SPEC, make_samples(rows), *make_vectors(SPEC, rows))
        if not run_dir.commit(record):
            run_dir.discard(record)

    with ThreadPoolExecutor(2) as drivers:
        list(drivers.map(drive, (10, 10)))
    run = Run(url)
    assert len(run.table(["key"])) == 10
    assert all(run.directory.storage.exists(name) for name in run.records[0].files)


def test_of_two_drivers_with_other_options_at_once_one_at_least_is_refused(url, overwrites, monkeypatch):
    together(monkeypatch, "run.json")
    first = make_manifest()
    second = replace(first, identity={**first.identity, "layers": "all"})

    def drive(manifest):
        try:
            return RunDirectory(url).create_or_resume(manifest)
        except RunMismatch as error:
            return str(error)

    with ThreadPoolExecutor(2) as drivers:
        answers = list(drivers.map(drive, (first, second)))
    assert [answer for answer in answers if isinstance(answer, str) and "layers" in answer]


@pytest.mark.parametrize("reporter", [ConsoleReporter, JsonReporter])
@pytest.mark.parametrize("exclusive", [True, False])
def test_the_user_is_told_once_that_one_job_must_be_enough(
    url, tmp_path, tiny_model, monkeypatch, capsys, reporter, exclusive
):
    if not exclusive:
        monkeypatch.setattr(MemoryFileSystem, "pipe_file", AbstractFileSystem.pipe_file)
    monkeypatch.setenv("COLUMNS", "200")
    write_photos(tmp_path / "a.tar", 3)
    execution = ExecutionConfig(engine="local")
    config = JobConfig(shards=(f"{tmp_path}/a.tar",), out=url, model=ModelConfig(name=tiny_model), execution=execution)
    with reporter(config) as job_reporter:
        run_job(config, LocalPool(config), job_reporter, threading.Event())
    output = capsys.readouterr().err
    assert output.count("cannot refuse to overwrite a file") == (not exclusive)
    if reporter is JsonReporter and not exclusive:
        (event,) = (parsed for line in output.splitlines() if (parsed := json.loads(line))["event"] == "warning")
        assert event["text"].startswith(url)
        assert event["text"].endswith("so run only one job at a time on it")
