"""`RUN@GENERATION` and `RUN@TIME`: what a run was, wherever a run is read."""

import dataclasses
import json

import pytest

from clipaudit.errors import RunNotFound, UsageError
from clipaudit.run.directory import RunDirectory
from clipaudit.run.growth import Growth
from clipaudit.run.integrity import check
from clipaudit.run.reader import Run
from clipaudit.run.records import FailureRecord
from clipaudit.run.upkeep import gc, status
from tests.make_runs import grown, make_run


@pytest.fixture
def run(tmp_path):
    """Two shards in October, one on the first of November, one in December; each committed an hour later."""
    return grown(make_run(str(tmp_path / "run"), shards=4), (2, 1, 1))


def test_the_newest_state_is_read_by_default(run):
    reader = Run(run.url)
    assert list(reader.records) == [0, 1, 2, 3]
    assert dataclasses.asdict(reader.state) == {
        "generation": 2,
        "generations": 3,
        "committed_at": "2026-12-01T11:00:00+00:00",
        "asked": None,
    }
    assert check(run.url).problems == ()


@pytest.mark.parametrize(
    ("moment", "shards", "generation"),
    [
        ("0", [0, 1], 0),
        ("1", [0, 1, 2], 1),
        ("2", [0, 1, 2, 3], 2),
        ("2026-10-31", [0, 1], 0),
        ("2026-11-01", [0, 1, 2], 1),  # that day belongs to it
        ("2026-11-01T10:30", [0, 1], 1),  # appended, and not committed yet
        ("2026-11-01T11:00:00Z", [0, 1, 2], 1),
        ("2026-11-01T12:30+02:00", [0, 1], 1),
    ],
)
def test_an_earlier_state_has_the_shards_of_then(run, moment, shards, generation):
    reader = Run(f"{run.url}@{moment}")
    assert list(reader.records) == shards
    assert reader.state.generation == generation
    assert reader.url == f"{run.url}@{moment}"
    assert len(reader) == reader.heads("L00H00").values.shape[0] == 47 * len(shards)
    assert reader.coverage().shards == (2, 3, 4)[generation]
    assert status(f"{run.url}@{moment}").committed == len(shards)


def test_the_bytes_and_failures_of_a_state_are_its_own(run, tmp_path):
    alone = grown(make_run(str(tmp_path / "alone"), shards=2), (2,))
    first, whole = status(f"{run.url}@0"), status(run.url)
    assert first.bytes_orphaned == whole.bytes_orphaned == 0, "what was committed later is no orphan"
    assert first.bytes_in < whole.bytes_in
    own = status(alone.url).bytes_stored
    assert abs(first.bytes_stored - own) < 0.02 * own, "run.json names four shards and not two"
    run.record_failure(FailureRecord(shard_id=3, url="later.tar", attempts=3, kind="error", error="it broke"))
    (tmp_path / "run/_committed/000003.json").unlink()
    assert (status(f"{run.url}@0").failed, status(f"{run.url}@0").pending) == (0, 0)
    assert (status(run.url).failed, status(run.url).pending) == (1, 0)


def test_what_works_on_the_newest_state_alone_says_so(run, tmp_path):
    from clipaudit.job.watch import Watcher
    from clipaudit.run.column_join import add_columns
    from clipaudit.run.column_list import drop_columns

    (tmp_path / "t.csv").write_text("shard,key,light\n0,train/00000000000000,1\n")
    for call in (
        gc,
        Watcher,
        lambda place: add_columns(place, tmp_path / "t.csv"),
        lambda place: drop_columns(place, "a"),
    ):
        with pytest.raises(UsageError, match=rf"leave out @1 behind {run.url}"):
            call(f"{run.url}@1")
    add_columns(run.url, tmp_path / "t.csv")
    assert Run(f"{run.url}@0").table("light")["light"].drop_null().to_pylist() == [1]


def test_moments_are_those_of_the_state(run):
    assert Run(f"{run.url}@1").moments("L00H00").count == 3 * 47
    assert Run(run.url).moments("L00H00").count == 4 * 47


def test_a_directory_of_that_name_wins(run, tmp_path):
    other = make_run(f"{run.url}@1", shards=1)
    assert Run(f"{run.url}@1").directory.url == other.url
    assert len(Run(f"{run.url}@1").records) == 1


def test_what_there_was_not_is_told(run):
    with pytest.raises(UsageError, match="has generations 0 to 2, and no generation 7"):
        Run(f"{run.url}@7")
    with pytest.raises(UsageError, match="began at 2026-10-01T10:00:00"):
        Run(f"{run.url}@2026-09-30")
    with pytest.raises(UsageError, match="@2026-02-31 is no date"):
        Run(f"{run.url}@2026-02-31")
    with pytest.raises(RunNotFound, match=r"behind the @ of .* give a generation, or a date"):
        Run(f"{run.url}@yesterday")


def test_results_of_an_earlier_state_do_not_replace_those_of_the_newest(run, tmp_path):
    from clipaudit.run.derived import publish

    publish(Run(run.url), "heads", {"heads.json": {"rows": 4}})
    folder = publish(Run(f"{run.url}@1"), "heads", {"heads.json": {"rows": 3}})
    assert folder == f"{run.url}/heads@1"
    assert json.loads((tmp_path / "run/heads/heads.json").read_text()) == {"rows": 4}
    assert json.loads((tmp_path / "run/heads@1/heads.json").read_text()) == {"rows": 3}


def test_a_run_that_grows_while_it_is_read_stays_what_it_was(run):
    reader = Run(run.url)
    first = make_run(run.url.removesuffix("run") + "more", shards=5)
    shard = first.open().shards[4]
    assert run.grow(Growth(generation=3, shards=(shard,), clipaudit_version="0.1.0"))
    record = first.read_commit(4)
    assert run.commit(record)
    assert list(reader.records) == [0, 1, 2, 3]
    assert list(Run(run.url).records) == [0, 1, 2, 3, 4]


def test_damaged_records_of_growth_are_named(run, tmp_path):
    path = tmp_path / "run/growth/000001.json"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"0.1.0"', b'"0.1.1"'))
    assert any("000001.json is not what was written" in problem for problem in check(run.url).problems)
    path.unlink()
    from clipaudit.errors import IntegrityError

    with pytest.raises(IntegrityError, match="growth is damaged: generation 1: "):
        RunDirectory(run.url).history()
