"""A run directory that version 0.1 wrote is read, checked, searched and resumed."""

import datetime
import shutil

import fsspec
import numpy as np
import pytest

from clipaudit.run.reader import Run
from tests.commands import ROOT

DATA = ROOT / "tests/data/run-0.1"
SHARDS = ("s-000000.tar", "s-000001.tar")
CREATED = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
ATTRIBUTES = ("place", "count", "light", "night")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the run and its model, the working directory; the shards are where the run says."""
    for name in ("run", "model"):
        shutil.copytree(DATA / name, tmp_path / name)
    memory = fsspec.filesystem("memory")
    for name in SHARDS:
        memory.pipe_file(f"/run-0.1/{name}", (DATA / name).read_bytes())
        memory.store[f"/run-0.1/{name}"].created = CREATED
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    memory.rm("/run-0.1", recursive=True)


def config():
    from clipaudit.config import ExecutionConfig, FieldsConfig, JobConfig, ModelConfig, StoreConfig

    return JobConfig(
        shards=("memory://run-0.1/s-{000000..000001}.tar",),
        out="run",
        model=ModelConfig(name="model", device="cpu"),
        store=StoreConfig(layers="1", label_moments="all"),
        fields=FieldsConfig(label="cls", attributes=tuple(f"json:{name}" for name in ATTRIBUTES)),
        execution=ExecutionConfig(engine="local", max_lost_samples=0.5),
    )


def test_it_is_read(folder):
    run = Run("run")
    assert run.head_labels == ("L01H00", "L01H01")
    assert (len(run), run.coverage().skipped) == (7, {"undecodable": 1})
    assert run.heads("L01H00").values.shape == (7, 8)
    assert run.labels().tolist() == [0, 1, 0, 0, 1, 0, 1]
    assert run.moments("L01H01", label=1).count == 3
    assert run.basis().Q("L01H01").shape == (8, 12)
    np.testing.assert_allclose(run.moments().mean("embedding"), run.embedding(dtype=np.float64).values.mean(axis=0))


def test_its_attributes_are_typed_by_their_values(folder):
    run = Run("run")
    types = run.column_types()
    assert [types[f"attributes.{name}"] for name in ATTRIBUTES] == ["text", "number", "number", "boolean"]
    rows = run.table("attributes")["attributes"].to_pylist()
    assert rows[1] == {"place": "water", "count": 0, "light": 0.25, "night": False}
    assert rows[2]["count"] is None


def test_it_is_checked_and_computed_anew(folder):
    from clipaudit.job.recompute import recompute
    from clipaudit.run.integrity import check
    from clipaudit.run.upkeep import gc

    assert check("run").problems == ()
    assert gc("run", min_age_seconds=0) == []
    found = recompute("run")
    assert (found.images, found.problems) == (7, [])


def test_its_indexes_are_searched(folder):
    from clipaudit.retrieval.head_index import HeadIndex

    index = HeadIndex.open("run", "L01H00")
    found = index.search(index.coordinates(1, "photo5"), k=3)
    assert index.rows(found.numbers[0])[0].key == "photo5"
    assert index.stale is None
    rows = index.rows(index.search(index.coordinates(1, "photo5"), k=2, where="place = 'land'").numbers[0])
    assert [row.attributes["place"] for row in rows] == ["land", "land"]


def test_a_missing_shard_is_finished_with_the_same_numbers(folder):
    from clipaudit.job.driver import run_job
    from clipaudit.run.integrity import check

    before = Run("run")
    record = before.records[1]
    embedding, moments = before.embedding(shards=1).values, before.moments(shards=1)
    plain = before.table(["key", "label", "attributes"], shards=1)
    for path in (*record.files, "_committed/000001.json"):
        (folder / "run" / path).unlink()
    kept = (folder / "run" / before.records[0].projections).read_bytes()
    assert len(Run("run")) == 3
    status = run_job(config())
    assert (status.committed, status.ok, status.pending) == (2, 7, 0)
    after = Run("run")
    assert after.records[1].attempt != record.attempt
    assert (folder / "run" / after.records[0].projections).read_bytes() == kept
    # another machine's arithmetic may differ in the last places of float16
    np.testing.assert_allclose(after.embedding(shards=1).values, embedding, atol=2e-3)
    np.testing.assert_allclose(after.moments(shards=1).covariance("L01H00"), moments.covariance("L01H00"), atol=1e-4)
    assert after.table(["key", "label", "attributes"], shards=1) == plain
    assert check("run").problems == ()


def test_a_finished_run_is_left_as_it_is(folder):
    from clipaudit.job.driver import run_job

    files = {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()}
    assert run_job(config()).ok == 7
    assert {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()} == files


def test_other_options_are_still_refused(folder):
    from dataclasses import replace

    from clipaudit.config import StoreConfig
    from clipaudit.errors import RunMismatch
    from clipaudit.job.driver import run_job

    with pytest.raises(RunMismatch, match='layers was "1", now "2"'):
        run_job(replace(config(), store=StoreConfig(layers="2", label_moments="all")))


def test_shards_are_appended_to_it(folder):
    from dataclasses import replace

    from clipaudit.job.driver import run_job
    from clipaudit.run.integrity import check

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/run-0.1/more.tar", (DATA / SHARDS[0]).read_bytes())
    before = (folder / "run/run.json").read_bytes()
    status = run_job(replace(config(), shards=("memory://run-0.1/more.tar",), append=True))
    assert (status.committed, status.shards) == (3, 3)
    run = Run("run")
    assert [record.generation for record in run.records.values()] == [0, 0, 1]
    assert run.table(["key", "label"], 2) == run.table(["key", "label"], 0)
    assert (folder / "run/run.json").read_bytes() == before
    assert check("run").problems == ()
    assert run_job(config()).committed == 3, "the first command again"
