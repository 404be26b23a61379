"""Status, garbage and the check: leftovers are found and nothing else, damage is named."""

import hashlib
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipaudit.errors import RunNotFound
from clipaudit.run.directory import RunDirectory
from clipaudit.run.integrity import check
from clipaudit.run.moments_file import load_moments, save_moments
from clipaudit.run.reader import Run
from clipaudit.run.records import FailureRecord, StoredFile
from clipaudit.run.upkeep import gc, status
from tests.make_runs import (
    SPEC,
    make_basis,
    make_manifest,
    make_run,
    make_samples,
    make_shard,
    make_vectors,
    write_attempt,
)


@pytest.fixture(params=["local", "memory"])
def run_dir(request, tmp_path):
    return make_run(str(tmp_path / "run") if request.param == "local" else f"memory://{tmp_path}/run")


@pytest.fixture
def local(tmp_path):
    return make_run(str(tmp_path / "run"))


def recommit(run_dir, number, **changes):
    """Replace a commit record: an edit that no program makes, for tests of what notices it."""
    record = replace(run_dir.committed()[number], **changes)
    run_dir.storage.replace(run_dir.commit_path(number), record.to_json())


def store_again(run_dir, number, path, data):
    """Replace a committed file and its hash, so that only its content can give it away."""
    run_dir.storage.replace(path, data)
    stored = StoredFile(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    recommit(run_dir, number, files={**run_dir.committed()[number].files, path: stored})


def test_status_counts(run_dir):
    found = status(run_dir.url)
    assert (found.shards, found.committed, found.failed, found.pending, found.partial) == (2, 2, 0, 0, 0)
    assert (found.rows, found.ok, found.skipped, found.coverage) == (100, 94, {"undecodable": 6}, 0.94)
    assert found.bytes_coverage == 1.0
    assert found.lost == pytest.approx(0.06)
    assert found.images_per_second == 94 / 4
    assert found.timings == {"total": 4.0, "model": 3.0}
    assert found.bytes_orphaned == 0
    assert found.bytes_stored == sum(entry.bytes for entry in run_dir.storage.walk())
    assert found.bytes_per_image == found.bytes_stored / 94


def test_status_of_an_unfinished_run(tmp_path):
    run_dir = RunDirectory(str(tmp_path / "run"))
    run_dir.create_or_resume(make_manifest(shards=5))
    record = write_attempt(run_dir, make_shard(0), SPEC, make_samples(10), *make_vectors(SPEC, 10))
    lacks = {"missing_attributes": {"place": 2, "--caption": 3}, "bad_attributes": {"place": 1}}
    run_dir.commit(replace(record, truncated="cut in a header", bytes_good=600, **lacks))
    orphan = write_attempt(run_dir, make_shard(1), SPEC, make_samples(10), *make_vectors(SPEC, 10))
    run_dir.record_failure(FailureRecord(shard_id=2, url="u2", attempts=3, kind="error", error="it broke"))
    run_dir.record_failure(FailureRecord(shard_id=0, url="u0", attempts=3, kind="error", error="before"))
    found = status(run_dir)
    assert (found.shards, found.committed, found.failed, found.pending, found.partial) == (5, 1, 1, 3, 1)
    assert found.bytes_coverage == 600 / 5000
    assert found.coverage == found.ok / 10
    assert found.lost == pytest.approx(1 - found.coverage * 0.6), "the unread bytes hold samples too"
    assert found.bytes_orphaned >= sum(stored.bytes for stored in orphan.files.values())
    text = "\n".join(found.remarks)
    assert "shard u2 failed 3 times: it broke" in text
    assert "400 of 1,000 bytes are lost: cut in a header" in text
    assert "attribute place is missing from 2 samples" in text
    assert "\n--caption is missing from 3 samples" in text
    assert "attribute place cannot be read in 1 sample" in text


def test_shards_without_a_sample_and_a_single_failure_are_told(tmp_path):
    run_dir = RunDirectory(str(tmp_path / "run"))
    run_dir.create_or_resume(make_manifest(shards=4))
    for number in (1, 3):
        run_dir.commit(write_attempt(run_dir, make_shard(number), SPEC, [], *make_vectors(SPEC, 0)))
    run_dir.record_failure(FailureRecord(shard_id=2, url="u2", attempts=1, kind="error", error="it broke"))
    assert status(run_dir).remarks == (
        "shard u2 failed once: it broke",
        f"shard {make_shard(1).url} and 1 more hold no sample",
    )


def test_no_run_has_no_status_and_no_garbage(tmp_path):
    for call in (status, gc, check):
        with pytest.raises(RunNotFound, match="there is no run at"):
            call(str(tmp_path))


def leave_garbage(run_dir):
    """What SIGKILL leaves: data without a commit, a mark, files written aside, a half-made directory."""
    write_attempt(run_dir, make_shard(0), SPEC, make_samples(5), *make_vectors(SPEC, 5))
    for path in (
        "_committed/.000001.json.0123456789ab.tmp",
        "heads/.names.0123456789ab.tmp/part.json",
        "projections/000001-dead.parquet",
        "_attempts/000001-dead.json",
    ):
        run_dir.storage.make_directories([path.rpartition("/")[0]])
        run_dir.storage.replace(path, b"partial")
    kept = ["heads/names/part.json", "reports/index.html", "indexes/L00H00.tmp", "projections/notes.txt"]
    for path in kept:
        run_dir.storage.make_directories([path.rpartition("/")[0]])
        run_dir.storage.replace(path, b"mine")


def test_gc_removes_leftovers_and_nothing_else(run_dir):
    before = {entry.path for entry in run_dir.storage.walk()}
    leave_garbage(run_dir)
    with_garbage = {entry.path for entry in run_dir.storage.walk()}
    assert gc(run_dir) == []  # all of it is young
    listed = gc(run_dir, dry_run=True, min_age_seconds=0)
    assert {entry.path for entry in run_dir.storage.walk()} == with_garbage
    assert gc(run_dir, min_age_seconds=0) == listed
    assert len(listed) == 7  # of the lost attempt: rows, moments, mark; and the four others
    after = {entry.path for entry in run_dir.storage.walk()}
    kept = {"heads/names/part.json", "reports/index.html", "indexes/L00H00.tmp", "projections/notes.txt"}
    assert after == before | kept
    assert gc(run_dir, min_age_seconds=0) == []
    assert check(run_dir).problems == ()


def test_gc_goes_by_age(local):
    leave_garbage(local)
    old = Path(local.storage.full("projections/000001-dead.parquet"))
    os.utime(old, (time.time() - 7 * 3600,) * 2)
    assert gc(local) == ["projections/000001-dead.parquet"]


def test_gc_leaves_the_mark_of_an_attempt_that_may_still_count(tmp_path):
    run_dir = make_run(str(tmp_path / "run"), shards=1)
    run_dir.begin_attempt(1, "a1")
    assert gc(run_dir, min_age_seconds=0) == []


def test_all_is_well(run_dir):
    report = check(run_dir.url)
    assert report.problems == ()
    assert (report.shards, report.rows) == (2, 100)
    assert 0 < report.remainder_quantiles["0.5"] < report.largest_remainder <= 5e-7
    assert report.remainder_tolerance == 5e-6


def test_labels_that_are_stored_are_checked_too(tmp_path):
    run_dir = make_run(str(tmp_path / "run"), shards=1, label_moments="all")
    assert check(run_dir).problems == ()
    path = run_dir.committed()[0].moments
    moments = load_moments(run_dir, path)
    moments.labels[1].head_mean[0] += 1e-5
    stored = save_moments(run_dir, path, moments)
    recommit(run_dir, 0, files={**run_dir.committed()[0].files, path: stored})
    assert ["label 1" in problem for problem in check(run_dir).problems] == [True]


@pytest.mark.parametrize("kind", ["projections", "moments"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "empty"])
def test_damage_is_named_once_with_its_file(local, kind, damage):
    path = getattr(local.committed()[1], kind)
    data = bytearray(local.storage.read(path))
    if damage == "gone":
        local.storage.remove(path)
    else:
        data[len(data) // 2] ^= 1
        local.storage.replace(path, bytes({"cut": data[:-9], "flip": data, "empty": b""}[damage]))
    problems = check(local).problems
    assert len(problems) == 1
    assert path in problems[0]
    word = {"cut": "bytes where", "flip": "sha256 differs", "gone": "is not there", "empty": "has 0 bytes"}[damage]
    assert word in problems[0]


def test_rows_that_contradict_the_commit_are_found(local):
    recommit(local, 0, skipped={"missing_label": 3})
    recommit(local, 1, rows=49)
    problems = check(local).problems
    assert "counts {" in problems[0]
    assert "has 50 rows where 49 were written" in problems[1]


def test_a_remainder_over_the_tolerance_is_found(local):
    report = check(local, remainder_tolerance=1e-7)
    assert len(report.problems) == 2
    assert "rows with a remainder over 1.0e-07" in report.problems[0]


def test_a_key_twice_among_ok_rows_is_found(local):
    samples = make_samples(6)
    samples[5].key = samples[2].key
    run_dir = make_run(local.url + "-two", shards=0)
    run_dir.storage.replace("run.json", make_manifest(shards=1).to_json())
    run_dir.commit(write_attempt(run_dir, make_shard(0), SPEC, samples, *make_vectors(SPEC, 6)))
    assert [p for p in check(run_dir).problems if "keys more than once" in p and samples[2].key in p]


def test_changed_rows_under_a_right_hash_disagree_with_the_moments(local):
    record = local.committed()[0]
    table = pq.read_table(local.storage.full(record.projections))
    at = table.column_names.index("L00H00")
    field = table.schema.field(at)
    nudge = np.float16(0.01)
    values = [None if v is None else (np.frombuffer(v, np.float16) + nudge).tobytes() for v in table[at].to_pylist()]
    changed = table.set_column(at, field, pa.array(values, field.type))
    sink = pa.BufferOutputStream()
    pq.write_table(changed, sink)
    store_again(local, 0, record.projections, sink.getvalue().to_pybytes())
    problems = check(local).problems
    assert len(problems) == 1
    assert "disagrees with the rows" in problems[0]


def test_the_rows_of_another_shard_are_found(local):
    first, second = (local.committed()[n] for n in (0, 1))
    store_again(local, 1, second.projections, local.storage.read(first.projections))
    assert "clipaudit.shard" in check(local).problems[0]


def test_a_shard_that_the_manifest_does_not_know_is_found(local):
    local.storage.replace("run.json", make_manifest(shards=1).to_json())
    for number in range(2):
        recommit(local, number, run_files=local.run_files())
    assert "is not in run.json" in check(local).problems[0]


def test_a_basis_that_is_not_orthonormal_is_found(local):
    from safetensors.numpy import save

    tensors = make_basis(SPEC)
    header = {"clipaudit": json.dumps({})}
    tensors["Q"][0, 2] *= 1.01
    local.storage.replace("basis.safetensors", save(tensors, header))
    for number in range(2):
        recommit(local, number, run_files={})  # as version 0.1, which recorded no hash of it
    assert "the basis of L01H00" in check(local).problems[0]
    tensors = make_basis(SPEC)
    tensors["Q"][0, 1, 3] = 0  # a head of lower rank: still an isometry on what it writes
    local.storage.replace("basis.safetensors", save(tensors, header))
    assert check(local).problems == ()
    local.storage.remove("basis.safetensors")
    assert "no basis.safetensors" in check(local).problems[0]


def test_a_shard_committed_between_listing_and_removal_stays(local, monkeypatch):
    extra = make_run(local.url + "-more", shards=1)
    record = write_attempt(extra, make_shard(1), SPEC, make_samples(5), *make_vectors(SPEC, 5))
    stale = extra.committed()
    extra.commit(record)
    monkeypatch.setattr(RunDirectory, "committed", lambda self: stale)
    assert not set(gc(extra, min_age_seconds=0)) & set(record.files)
    monkeypatch.undo()
    assert len(Run(extra)) == 47 + 5
