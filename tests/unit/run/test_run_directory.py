"""The run directory: one winner per name, resumes that are compared, records that are validated, full disks."""

import errno
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from clipaudit.errors import IntegrityError, RunMismatch, RunNotFound, StorageFull, StoreUnavailable, UsageError
from clipaudit.run.directory import RunDirectory, new_attempt
from clipaudit.run.records import CommitRecord, FailureRecord, Manifest, StoredFile
from tests.make_runs import SPEC, make_manifest, make_shard

ROOT = Path(__file__).resolve().parents[3]


def make_record(number=0, attempt="a1", **changes):
    facts = {
        "shard_id": number,
        "url": make_shard(number).url,
        "attempt": attempt,
        "rows": 3,
        "ok": 2,
        "files": {
            f"projections/{number:06d}-{attempt}.parquet": StoredFile(bytes=10, sha256="ab"),
            f"moments/{number:06d}-{attempt}.safetensors": StoredFile(bytes=20, sha256="cd"),
        },
        "skipped": {"undecodable": 1},
        "details": {"undecodable": ["k: broken"]},
        "input_size": 1000,
        "bytes_good": 900,
        "truncated": "cut in a header",
        "timings": {"total": 1.5},
    }
    return CommitRecord(**{**facts, **changes})


@pytest.fixture(params=["local", "memory"])
def run_dir(request, tmp_path):
    run_dir = RunDirectory(str(tmp_path / "run") if request.param == "local" else f"memory://{tmp_path}/run")
    run_dir.create_or_resume(make_manifest())
    return run_dir


def test_a_manifest_survives_the_round_trip(run_dir):
    assert run_dir.open() == make_manifest(created=run_dir.open().created)


def test_no_run_is_one_sentence(tmp_path):
    with pytest.raises(RunNotFound, match=r"there is no run at .*: run\.json is not there"):
        RunDirectory(str(tmp_path / "nothing")).open()


def test_a_second_driver_resumes_and_gets_the_stored_manifest(run_dir):
    first = run_dir.open()
    assert run_dir.create_or_resume(make_manifest(created="2031-01-01T00:00:00+00:00")) == first
    assert not run_dir.create(make_manifest())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"identity": {"model": "ViT-L-14", "layers": "all", "precision": "fp32"}},
            r'layers was "4", now "all"; model was "ViT-B-32", now "ViT-L-14"',
        ),
        ({"model": {"fingerprint": "beef"}}, r"other weights \(fingerprint feed, now beef\)"),
        ({"table": replace(SPEC, head_dim=5)}, r"head_dim was 4, now 5"),
    ],
)
def test_a_resume_with_something_else_names_the_difference(run_dir, changes, sentence):
    with pytest.raises(RunMismatch, match=sentence) as caught:
        run_dir.create_or_resume(make_manifest(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "error", "sentence"),
    [
        (b"", IntegrityError, "not JSON"),
        (b"{", IntegrityError, "not JSON"),
        (b"\xff\xfe{}", IntegrityError, "not JSON"),
        (b"[1]", IntegrityError, "no schema version"),
        (b'{"schema_version": 1}', IntegrityError, r"damaged: .*required"),
        (b'{"schema_version": 2}', RunMismatch, "version 2, and this clipaudit reads version 1"),
    ],
)
def test_a_damaged_or_newer_manifest_is_refused_by_name(run_dir, content, error, sentence):
    run_dir.storage.replace("run.json", content)
    with pytest.raises(error, match=rf"run\.json.*{sentence}"):
        run_dir.open()


def test_the_first_commit_wins_and_stays(run_dir):
    run_dir.begin_attempt(0, "a1")
    run_dir.begin_attempt(0, "a2")
    assert run_dir.attempts(0) == ["a1", "a2"]
    assert run_dir.attempt_began(0, "a2")
    assert run_dir.commit(make_record(attempt="a1"))
    assert not run_dir.commit(make_record(attempt="a2"))
    assert run_dir.committed() == {0: make_record(attempt="a1", committed_at=run_dir.committed()[0].committed_at)}
    assert run_dir.committed_ids() == {0}
    assert run_dir.attempts(0) == ["a2"]
    assert run_dir.committed()[0].projections == "projections/000000-a1.parquet"
    assert run_dir.committed()[0].moments == "moments/000000-a1.safetensors"


def test_a_loser_is_discarded_and_a_winner_is_not(run_dir):
    winner, loser = make_record(attempt="a1"), make_record(attempt="a2")
    for name in [*winner.files, *loser.files]:
        run_dir.storage.replace(name, b"x")
    run_dir.commit(winner)
    run_dir.discard(loser)
    run_dir.discard(winner)
    assert run_dir.storage.names("projections") == ["000000-a1.parquet"]
    assert run_dir.storage.names("moments") == ["000000-a1.safetensors"]


def test_a_commit_that_is_there_and_cannot_be_read_costs_nobodys_files(run_dir, monkeypatch):
    """A store may refuse to create the record, because it is there, and a moment later not give it."""
    ours = make_record(attempt="ours")
    for name in ours.files:
        run_dir.storage.replace(name, b"x")
    assert run_dir.commit(ours)
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "read_commit", lambda self, shard_id: None)
        with pytest.raises(StoreUnavailable, match=r"_committed/000000\.json exists, and cannot be read"):
            run_dir.commit(ours)
        run_dir.discard(ours)
    assert all(run_dir.storage.exists(name) for name in ours.files)
    assert run_dir.commit(ours)


def test_what_cannot_be_tidied_up_does_not_undo_a_commit(run_dir, monkeypatch):
    def refuse(self, path):
        raise UsageError(f"cannot use {path}: Access Denied")

    run_dir.begin_attempt(0, "a1")
    monkeypatch.setattr(type(run_dir.storage), "remove", refuse)
    assert run_dir.commit(make_record(attempt="a1"))
    assert not run_dir.commit(make_record(attempt="a2"))
    run_dir.discard(make_record(attempt="a2"))
    run_dir.clear_failure(0)
    assert run_dir.committed()[0].attempt == "a1"


def test_commits_come_in_the_order_of_ids(run_dir):
    for number in (12, 3, 1_234_567):
        run_dir.commit(make_record(number))
    assert list(run_dir.committed()) == [3, 12, 1_234_567]


@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_a_partial_commit_record_is_named(run_dir, keep):
    run_dir.commit(make_record(1))
    run_dir.storage.replace("_committed/000000.json", make_record().to_json()[:keep])
    assert run_dir.committed_ids() == {0, 1}
    with pytest.raises(IntegrityError, match=r"_committed/000000\.json is damaged"):
        run_dir.committed()


@pytest.mark.parametrize(
    ("key", "value"),
    [("rows", "3"), ("files", {"a": {"bytes": 1}}), ("schema_version", 9), ("shard_id", 5), ("ok", None)],
)
def test_a_commit_record_with_a_wrong_field_is_refused(run_dir, key, value):
    fields = {**json.loads(make_record().to_json()), key: value}
    run_dir.storage.replace("_committed/000000.json", json.dumps(fields).encode())
    with pytest.raises(IntegrityError, match=r"_committed/000000\.json"):
        run_dir.committed()


def test_failures_are_replaced_and_forgotten(run_dir):
    for tries in (1, 3):
        run_dir.record_failure(
            FailureRecord(shard_id=1, url="u", attempts=tries, kind="error", error="no", traceback="T")
        )
    assert run_dir.failures()[1].attempts == 3
    assert run_dir.failed_ids() == {1}
    run_dir.clear_failure(1)
    run_dir.clear_failure(1)
    assert run_dir.failures() == {}


def test_attempt_names_differ():
    assert len({new_attempt() for _ in range(1000)}) == 1000


def test_of_many_threads_one_commits_whole(tmp_path):
    run_dir = RunDirectory(str(tmp_path / "run"))
    run_dir.create_or_resume(make_manifest())
    for number in range(20):
        barrier, results = threading.Barrier(8), []

        def race(attempt, number=number, barrier=barrier, results=results):
            barrier.wait()
            results.append((run_dir.commit(make_record(number, attempt=attempt, details={"x": ["y" * 9999]})), attempt))

        threads = [threading.Thread(target=race, args=(f"a{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [attempt for won, attempt in results if won]
        assert winners == [run_dir.committed()[number].attempt]
    assert not [path for path in (tmp_path / "run/_committed").iterdir() if path.name.endswith(".tmp")]


def test_of_many_drivers_one_creates_and_the_rest_resume(tmp_path):
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.make_runs import make_manifest\nfrom clipaudit.run.directory import RunDirectory\n"
        "manifest = make_manifest(shards=500, packages={'me': sys.argv[2]})\nsys.stdin.readline()\n"
        "print(RunDirectory(sys.argv[1]).create_or_resume(manifest).packages['me'])\n"
    )
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "run"), str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    for driver in drivers:
        driver.stdin.write("go\n")
        driver.stdin.flush()
    answers = [driver.communicate(timeout=60)[0].strip() for driver in drivers]
    assert len(set(answers)) == 1, answers
    assert all(driver.returncode == 0 for driver in drivers)


def test_without_hard_links_the_name_is_still_taken_once(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr("os.link", refuse)
    run_dir = RunDirectory(str(tmp_path / "run"))
    run_dir.create_or_resume(make_manifest())
    assert run_dir.commit(make_record())
    assert not run_dir.commit(make_record(attempt="a2"))
    assert run_dir.committed()[0].rows == 3


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(tmp_path, monkeypatch, number):
    run_dir = RunDirectory(str(tmp_path / "run"))
    run_dir.create_or_resume(make_manifest())

    def full(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", full)
    failure = FailureRecord(shard_id=1, url="u", attempts=1, kind="error", error="no")
    for write in (
        lambda: run_dir.commit(make_record()),
        lambda: run_dir.record_failure(failure),
        lambda: run_dir.begin_attempt(0, "a1"),
    ):
        with pytest.raises(StorageFull, match=r"no space left while writing .*committed shards are safe"):
            write()
    assert sorted(p.name for p in (tmp_path / "run").rglob("*") if p.is_file()) == ["run.json"]


def test_an_output_path_that_is_a_file_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    for path in ("file", "file/run"):
        with pytest.raises(UsageError, match="cannot write"):
            RunDirectory(str(tmp_path / path)).create_or_resume(make_manifest())
    with pytest.raises(RunNotFound):
        RunDirectory(str(tmp_path / "file")).open()


def test_an_unknown_protocol_is_a_usage_error():
    with pytest.raises(UsageError, match="nonsense://x/y is not a path or URL"):
        RunDirectory("nonsense://x/y")


def test_publish_replaces_whole_or_not_at_all(run_dir):
    fs = run_dir.storage.fs
    for text in (b"one", b"two"):
        with run_dir.publish("indexes/L00H00") as folder:
            fs.pipe_file(f"{folder}/a.bin", text)
        assert run_dir.storage.read("indexes/L00H00/a.bin") == text
    with pytest.raises(ZeroDivisionError), run_dir.publish("indexes/L00H00") as folder:  # noqa: PT012
        fs.pipe_file(f"{folder}/b.bin", b"three")
        raise ZeroDivisionError
    assert run_dir.storage.names("indexes/L00H00") == ["a.bin"]
    assert run_dir.storage.names("indexes") == ["L00H00"]
    assert not [entry for entry in run_dir.storage.walk() if ".tmp" in entry.path]


def test_a_driver_killed_while_writing_aside_leaves_nothing_that_counts(tmp_path):
    run_dir = RunDirectory(str(tmp_path / "run"))
    run_dir.create_or_resume(make_manifest())
    (tmp_path / "run/_committed/.000000.json.0123456789ab.tmp").write_bytes(b'{"schema')
    assert run_dir.committed_ids() == set()
    assert run_dir.committed() == {}
    assert run_dir.commit(make_record())


def test_a_manifest_of_the_right_version_with_an_unknown_key_is_read():
    fields = {**json.loads(make_manifest().to_json()), "later": 1}
    assert Manifest.from_json(json.dumps(fields).encode(), "run.json").table == SPEC
