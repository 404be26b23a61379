"""Attributes are stored as text and read with the type that all their values have."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipaudit.errors import IntegrityError
from clipaudit.run.column_types import TextType
from clipaudit.run.directory import RunDirectory
from clipaudit.run.export import export
from clipaudit.run.reader import Run
from clipaudit.run.rows import chosen_rows, stream_rows
from tests.make_runs import SPEC, make_manifest, make_samples, make_vectors, write_attempt

NAMES = ("count", "share", "daylight", "place", "code", "nothing", "mixed")
TYPES = {
    "count": "number",
    "share": "number",
    "daylight": "boolean",
    "place": "text",
    "code": "text",
    "nothing": "text",
    "mixed": "text",
}


def attributes(shard, index):
    return {
        "count": None if index == 3 else str(index - 2),
        "share": str(index) if shard else f"{index / 8}",
        "daylight": None if index == 4 else ("true", "false")[index % 2],
        "place": ("land", "water")[index % 2],
        "code": f"{index:03d}",
        "nothing": None,
        "mixed": "tall" if shard and index == 9 else str(index),
    }


@pytest.fixture
def run(tmp_path):
    spec = dataclasses.replace(SPEC, attributes=NAMES)
    directory = RunDirectory(str(tmp_path / "run"))
    manifest = make_manifest(spec)
    directory.create_or_resume(manifest)
    for shard in manifest.shards:
        samples = make_samples(10, failures=(5,))
        for sample in samples:
            sample.attributes = attributes(shard.id, sample.index)
        directory.commit(write_attempt(directory, shard, spec, samples, *make_vectors(spec, 9, shard.id)))
    return Run(directory)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (("1", "-2", None), pa.int64()),
        (("1", "0.5"), pa.float64()),
        (("1e-07", "3", "9007199254740992.0"), pa.float64()),
        (("true", None, "false"), pa.bool_()),
        (("9223372036854775807",), pa.int64()),
        (("9223372036854775808",), pa.string()),
        (("9007199254740993", "0.5"), pa.string()),
        (("true", "1"), pa.string()),
        (("007", "1"), pa.string()),
        (("+1",), pa.string()),
        (("nan",), pa.string()),
        (("1e400",), pa.string()),
        (("1,5",), pa.string()),
        (("١",), pa.string()),
        (("True", "False"), pa.string()),
        ((None, None), pa.string()),
        ((), pa.string()),
    ],
)
@pytest.mark.parametrize("pieces", [1, 2])
def test_values_decide_the_type_as_json_spells_them(values, kind, pieces):
    found = TextType()
    for piece in range(pieces):
        found.add(pa.array(values[piece::pieces], pa.string()))
    assert found.arrow == kind


def test_columns_say_their_types(run):
    types = run.column_types()
    assert {name.removeprefix("attributes."): kind for name, kind in types.items() if "." in name} == TYPES
    assert (types["key"], types["label"], types["width"], types["remainder"]) == ("text", "number", "number", "number")
    assert "embedding" not in types


def test_numbers_and_booleans_come_back_as_such(run):
    rows = run.table("attributes")["attributes"].to_pylist()
    assert rows[0] == {**attributes(0, 0), "count": -2, "share": 0.0, "daylight": True}
    assert rows[3]["count"] is None
    assert rows[19]["share"] == 9.0
    table = run.table(["key", "attributes.daylight"])
    assert table.column_names == ["key", "attributes.daylight"]
    assert table["attributes.daylight"].to_pylist()[:5] == [True, False, True, False, None]
    found = run.heads("L00H00", ["attributes.count", "attributes.share", "attributes.place", "attributes.daylight"])
    np.testing.assert_array_equal(found["attributes.count"][:5], [-2, -1, 0, np.nan, 2])
    assert found["attributes.share"].dtype == np.float64
    assert found["attributes.place"].tolist()[:2] == ["land", "water"]
    assert found["attributes.daylight"].tolist()[3:6] == [False, None, True], "the row that is not ok is left out"


def test_batches_are_as_stored_until_they_are_typed(run):
    (batch, other) = run.batches(["key", "attributes"])
    assert batch.column("attributes").to_pylist()[1] == attributes(0, 1)
    typed = run.typed(batch)
    assert typed.column("attributes").to_pylist()[1]["count"] == -1
    assert run.typed(other).column("key") == other.column("key")
    assert run.typed(pa.Table.from_batches([batch])).equals(pa.Table.from_batches([typed]))
    assert run.typed(batch.select(["key"])).equals(batch.select(["key"]))


@pytest.mark.parametrize(("file_format", "name"), [("parquet", "table.parquet"), ("npy", "rows.parquet")])
def test_exports_have_the_types_too(run, tmp_path, file_format, name):
    export(run, tmp_path / "out", file_format=file_format, columns=["key", "attributes"])
    kinds = {field.name: field.type for field in pq.read_schema(tmp_path / "out" / name)}
    assert (kinds["count"], kinds["share"], kinds["daylight"]) == (pa.int64(), pa.float64(), pa.bool_())
    assert pq.read_table(tmp_path / "out" / name)["count"].to_pylist()[0] == -2


def test_rows_of_later_shards_that_do_not_fit_are_named(run):
    (batch,) = run.batches("attributes", shards=0)
    rows = batch.to_pylist()
    rows[0]["attributes"]["count"] = "many"
    with pytest.raises(IntegrityError, match="open it again"):
        run.typed(pa.RecordBatch.from_pylist(rows, batch.schema))


# -- types as they were in the json ------------------------------------------------------------------------------------


def audited_json(folder, *documents, name="run"):
    """A run by the job itself over images with these json documents, a shard for each list of them."""
    from clipaudit.config import ExecutionConfig, FieldsConfig, JobConfig, ModelConfig, StoreConfig
    from clipaudit.job.driver import run_job
    from tests.make_shards import jpeg_bytes, write_shard
    from tests.worded_models import write_worded_model

    model = write_worded_model(folder / "model", layers=2, image_size=32)
    for number, shard in enumerate(documents):
        samples = {f"{number}-{place}": {"jpg": jpeg_bytes(), "json": facts} for place, facts in enumerate(shard)}
        write_shard(folder / f"s-{number}.tar", samples)
    names = sorted({name for shard in documents for facts in shard for name in facts})
    config = JobConfig(
        shards=(f"{folder}/s-*.tar",),
        out=str(folder / name),
        model=ModelConfig(name=str(model), device="cpu"),
        fields=FieldsConfig(attributes=tuple(f"json:{name}" for name in names)),
        store=StoreConfig(layers="1"),
        execution=ExecutionConfig(engine="local"),
    )
    run_job(config)
    return Run(config.out)


@pytest.fixture(scope="module")
def of_json(tmp_path_factory):
    first = [
        {
            "code": "007",
            "zip": "7",
            "n": 1,
            "x": 0.5,
            "flag": True,
            "word": "true",
            "mixed": 1,
            "long": 2**60,
            "f": 3.0,
        },
        {"code": "12", "zip": "12", "n": None, "x": 2, "flag": False, "word": "false", "mixed": "1", "long": 1, "f": 4},
    ]
    second = [{"code": "1", "zip": "1", "n": -5, "x": -1.5, "flag": None, "word": "true", "mixed": True, "long": 2}]
    return audited_json(tmp_path_factory.mktemp("json"), first, second)


KINDS = {
    "code": "text", "zip": "text", "n": "number", "x": "number", "flag": "boolean", "word": "text", "mixed": "text",
    "long": "number", "f": "number",
}  # fmt: skip


def test_attributes_keep_the_type_that_they_had_in_the_json(of_json):
    types = of_json.column_types()
    assert {name: types[f"attributes.{name}"] for name in KINDS} == KINDS
    rows = of_json.table(["attributes"])["attributes"].to_pylist()
    assert [row["zip"] for row in rows] == ["7", "12", "1"]
    assert [row["n"] for row in rows] == [1, None, -5]
    assert [row["x"] for row in rows] == [0.5, 2.0, -1.5]
    assert [row["flag"] for row in rows] == [True, False, None]
    assert rows[0]["long"] == 2**60


def test_filters_of_runs_and_of_indexes_compare_by_these_types(of_json):
    from clipaudit.errors import UsageError
    from clipaudit.retrieval.rowmap import RowMap, segments_for
    from clipaudit.run.filters import parse_filter
    from clipaudit.run.rows import filter_columns

    rows = RowMap(of_json, segments_for(of_json))
    assert rows.mask("n < 0").tolist() == [False, False, True]
    assert rows.mask("zip = '7'").tolist() == [True, False, False]
    for columns in (rows.filter_columns, filter_columns(of_json)):
        with pytest.raises(UsageError, match="texts"):
            parse_filter("zip < 9", columns)


def test_types_come_from_the_records_alone(of_json, monkeypatch):
    monkeypatch.setattr("clipaudit.run.column_types.open_table", lambda *_: pytest.fail("the rows are read"))
    assert Run(of_json.directory.url).column_types()["attributes.n"] == "number"


def test_runs_of_before_are_typed_by_their_values_and_that_is_said(of_json, tmp_path):
    import json
    import shutil

    from clipaudit.run.integrity import check

    shutil.copytree(of_json.directory.url, tmp_path / "run")
    for path in (tmp_path / "run/_committed").iterdir():
        record = json.loads(path.read_text())
        del record["attribute_kinds"]
        path.write_text(json.dumps(record))
    old = Run(str(tmp_path / "run"))
    assert old.column_types()["attributes.zip"] == "number"
    assert old.column_types()["attributes.code"] == "text"
    (remark,) = check(old.directory).remarks
    assert "are typed by values: " in remark
    assert "zip as numbers" in remark
    assert check(of_json.directory).remarks == ()


def test_lists_of_texts_are_attributes(tmp_path):
    documents = [[{"tags": ["red", "wet"]}, {"tags": []}, {"tags": [1]}], [{"tags": None}, {"tags": ["wet"]}]]
    run = audited_json(tmp_path, *documents)
    assert run.column_types()["attributes.tags"] == "list of texts"
    assert run.table("tags")["tags"].to_pylist() == [["red", "wet"], [], None, None, ["wet"]]
    chosen = [
        batch.columns["key"].tolist() for batch in stream_rows(run, (), ["key"], chosen_rows(run, "tags has wet"))
    ]
    assert chosen == [["0-0"], ["1-1"]]
    assert run.heads(run.head_labels[0], "tags")["tags"].tolist() == [("red", "wet"), (), None, None, ("wet",)]
    mixed = audited_json(tmp_path / "mixed", [{"tags": ["a"]}, {"tags": "a"}])
    assert mixed.table("tags")["tags"].to_pylist() == ['["a"]', "a"]  # of several kinds: text
