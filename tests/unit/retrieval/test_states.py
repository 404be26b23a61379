"""Queries of an earlier state of a run: the index of the newest is asked, and later rows are left out."""

import pytest

from clipaudit.errors import UsageError
from clipaudit.run.reader import Run
from tests.make_runs import MEMORY, grown, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from clipaudit.retrieval.plan import IndexConfig, build_indexes

    directory = grown(make_run(str(tmp_path_factory.mktemp("states") / "run"), shards=4), (2, 1, 1))
    build_indexes(IndexConfig(run=directory.url, heads=("L00H00",), memory=MEMORY))
    return directory


def shards_of(run, **options):
    from clipaudit.retrieval.retriever import Retriever

    answer = Retriever(run).search(key="0/train/00000000000001", heads="L00H00", k=100, **options)
    assert not [note for note in answer.notes if "older" in note]
    return {hit.row.shard_id for hit in answer.hits}


def test_rows_of_later_generations_are_left_out(run):
    assert shards_of(run.url) == {0, 1, 2, 3}
    assert shards_of(f"{run.url}@1") == {0, 1, 2}
    assert shards_of(f"{run.url}@2026-10-31") == {0, 1}
    assert shards_of(f"{run.url}@1", where="label = 1") == {0, 1, 2}


def test_a_heads_index_leaves_them_out_too(run):
    from clipaudit.retrieval.head_index import HeadIndex

    index = HeadIndex.open(f"{run.url}@0", "L00H00")
    nearest = index.search(index.coordinates(0, "train/00000000000001"), k=100)
    assert {row.shard_id for row in index.rows(nearest.numbers[0])} == {0, 1}


def test_an_index_is_of_the_newest_state(run):
    from clipaudit.retrieval.plan import IndexConfig, plan

    with pytest.raises(UsageError, match="leave out @1"):
        plan(IndexConfig(run=f"{run.url}@1"))


def test_an_export_has_the_rows_of_the_state(run, tmp_path):
    import pyarrow.csv

    from clipaudit.run.export import export

    export(f"{run.url}@0", str(tmp_path / "out"), file_format="csv")
    table = pyarrow.csv.read_csv(next((tmp_path / "out").glob("*.csv")))
    assert len(table) == Run(f"{run.url}@0").coverage().ok


def test_roles_are_those_of_the_state(run):
    from clipaudit.heads.description import stored_description
    from clipaudit.retrieval.retriever import Retriever
    from clipaudit.run.derived import publish

    for place, role in ((run.url, "colour"), (f"{run.url}@1", "shape")):
        heads = [{"head": "L00H00", "role": {"label": role}}]
        publish(Run(place), "heads/all", {"heads.json": {"heads": heads}})
    assert Retriever(f"{run.url}@1").heads_of_role("shape") == ["L00H00"]
    assert Retriever(run.url).heads_of_role("colour") == ["L00H00"]
    with pytest.raises(UsageError, match=r"run@0 have no roles yet: run `clipaudit heads .*run@0` first"):
        Retriever(f"{run.url}@0").heads_of_role("colour")
    path, heads = stored_description(Run(f"{run.url}@1"))
    assert path.endswith("heads/all@1/heads.json")
    assert heads["L00H00"]["role"]["label"] == "shape"


def test_evaluate_takes_a_state_for_a_run(run, clipaudit):
    result = clipaudit("evaluate", "multilabel", f"{run.url}@1")
    assert "images of the run at" in result.stderr
    assert "have one label each" in result.stderr
