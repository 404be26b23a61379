"""Hits, pages, answers over HTTP and duplicates of images with several labels."""

import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipaudit.retrieval.plan import IndexConfig, build_indexes
from clipaudit.retrieval.retriever import Retriever
from clipaudit.run.reader import Run
from tests.make_runs import MEMORY
from tests.make_shards import jpeg_bytes, write_shard

LISTS = (["dog", "cat"], [], ["dog"], ["potted plant"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """12 indexed images with LISTS in turn; the last is a copy of the first with its labels in another order."""
    from clipaudit.config import ExecutionConfig, FieldsConfig, JobConfig, ModelConfig, StoreConfig
    from clipaudit.job.driver import run_job
    from tests.worded_models import write_worded_model

    folder = tmp_path_factory.mktemp("several")
    model = write_worded_model(folder / "model", layers=2, image_size=32)
    samples = {
        f"s{n}": {"jpg": jpeg_bytes(40, 40, seed=n), "json": {"objects": LISTS[n % 4], "place": "sea"}}
        for n in range(11)
    }
    samples["s11"] = {"jpg": jpeg_bytes(40, 40, seed=0), "json": {"objects": ["cat", "dog"], "place": "sea"}}
    write_shard(folder / "a.tar", samples)
    config = JobConfig(
        shards=(f"{folder}/*.tar",),
        out=str(folder / "run"),
        model=ModelConfig(name=str(model), device="cpu"),
        fields=FieldsConfig(label="json:objects", attributes=("json:place",)),
        store=StoreConfig(layers="2"),
        execution=ExecutionConfig(engine="local"),
    )
    run_job(config)
    build_indexes(IndexConfig(run=config.out, memory=MEMORY))
    return Run(config.out)


def test_hits_have_all_labels_and_filters_ask_for_one(run):
    retriever = Retriever(run)
    answer = retriever.search(key="0/s0", heads="L01H00", k=5, where="label has dog")
    assert len(answer.hits) == 5
    assert all("dog" in hit.row.label for hit in answer.hits)
    none = retriever.search(key="0/s0", heads="L01H00", k=3, where="label is null")
    assert [hit.row.label for hit in none.hits] == [(), (), ()]


def test_the_page_shows_them(run):
    from clipaudit.retrieval.sheet import SheetPanel, SheetQuery, contact_sheet
    from clipaudit.run.thumbnails import Thumbnails

    retriever = Retriever(run)
    answer = retriever.search(key="0/s0", heads="L01H00", k=11)
    query = SheetQuery(words="0/s0", row=retriever.index("L01H00").rows([0])[0])
    page = contact_sheet(run, query, [SheetPanel(title="all", about="", answer=answer)], Thumbnails(run))
    assert re.search(r"label dog, cat", page)
    assert "label none" in page
    shared = sum("dog" in hit.row.label or "cat" in hit.row.label for hit in answer.hits)
    assert f"like the query in: label {shared}" in page


def test_the_server_answers_with_lists(run):
    from starlette.testclient import TestClient

    from clipaudit.explorer.server import create_app

    asked = {"heads": [{"head": "L01H00"}], "key": "0/s0", "k": 11}
    with TestClient(create_app(run.directory.url, device="cpu"), base_url="http://127.0.0.1") as client:
        (answer,) = client.post("/search", json=asked).json()
        assert {tuple(hit["row"]["label"]) for hit in answer["hits"]} >= {(), ("dog",), ("cat", "dog")}
        (answer,) = client.post("/search", json={**asked, "where": "label = 'potted plant'"}).json()
        assert [hit["row"]["label"] for hit in answer["hits"]] == [["potted plant"]] * 2


def test_copies_with_the_same_labels_in_another_order_do_not_differ(run):
    from clipaudit.retrieval.duplicates import DuplicatesConfig, find_duplicates
    from clipaudit.retrieval.duplicates_page import duplicates_page

    result = find_duplicates(run, None, DuplicatesConfig(memory=MEMORY))
    table = pq.read_table(result.table)
    first = table.filter(np.isin(table["key"].to_pylist(), ["s0", "s11"]))
    assert len(set(first["cluster"].to_pylist())) == 1
    assert result.labels_differ == len(
        {
            cluster
            for cluster in table["cluster"].to_pylist()
            if len({frozenset(row["label"]) for row in table.to_pylist() if row["cluster"] == cluster}) > 1
        }
    )
    assert "label cat, dog" in duplicates_page(result, [run], table)
