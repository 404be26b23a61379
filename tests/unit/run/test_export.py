"""Exports: the same numbers for other tools, whole or not at all, nothing of the user's overwritten."""

import errno
import os
import re

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from clipaudit.errors import StorageFull, UsageError
from clipaudit.run.export import FORMATS, export
from clipaudit.run.reader import Run
from clipaudit.schema import TableSpec
from tests.commands import ROOT
from tests.make_runs import SPEC, make_run, make_samples


@pytest.fixture(scope="module", params=["local", "memory"])
def run(request, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("run") / "run")
    return Run(make_run(path if request.param == "local" else f"memory://{path}"))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_parquet_has_plain_lists(run, tmp_path, dtype):
    assert export(run, tmp_path / "out", dtype=dtype) == [tmp_path / "out/table.parquet"]
    table = pq.read_table(tmp_path / "out/table.parquet")
    assert table.num_rows == 94
    plain = [name for name in run.columns if name not in ("shard_id", "index", "key", "attributes")]
    place = plain.index("caption") + 1
    plain[place:place] = ["place"]
    assert table.column_names == ["shard_id", "index", "key", "shard", "member", *plain]
    assert set(table["shard"].to_pylist()) == {shard.url for shard in run.manifest.shards}
    assert table["place"].to_pylist() == run.embedding("place")["place"].tolist()
    for name, dim in SPEC.vectors.items():
        assert table.schema.field(name).type == pa.list_(pa.from_numpy_dtype(dtype), dim)
        values = table[name].combine_chunks().flatten().to_numpy().reshape(-1, dim)
        np.testing.assert_array_equal(values, run.vectors(name).values)
    assert set(table["status"].to_pylist()) == {"ok"}
    assert table["key"].to_pylist()[0] == make_samples(2)[1].key
    np.testing.assert_array_equal(table["label"], run.labels())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_npy_files_belong_to_the_rows_beside_them(run, tmp_path, dtype):
    files = export(run, tmp_path / "out", file_format="npy", dtype=dtype, heads=["L01H00"])
    assert [path.name for path in files] == ["L01H00.npy", "embedding.npy", "mlp_L01.npy", "rows.parquet"]
    for name in ("L01H00", "embedding", "mlp_L01"):
        values = np.load(tmp_path / f"out/{name}.npy", mmap_mode="r")
        assert values.dtype == dtype
        np.testing.assert_array_equal(values, run.vectors(name).values)
    rows = pq.read_table(tmp_path / "out/rows.parquet")
    np.testing.assert_array_equal(rows["index"], run.embedding().index)
    np.testing.assert_array_equal(rows["key"], run.embedding()["key"])


@pytest.mark.parametrize("file_format", ["parquet", "npy"])
def test_filters_choose_the_rows(run, tmp_path, file_format):
    export(run, tmp_path / "out", file_format=file_format, where=("place = water", "label != 2"))
    vectors = run.embedding(["place", "label"])
    chosen = (vectors["place"] == "water") & (vectors["label"] != 2)
    rows = pq.read_table(tmp_path / "out" / FORMATS[file_format].table)
    assert rows["key"].to_pylist() == run.embedding()["key"][chosen].tolist()
    if file_format == "npy":
        np.testing.assert_array_equal(np.load(tmp_path / "out/embedding.npy"), vectors.values[chosen])


def test_csv_has_every_plain_column(run, tmp_path):
    export(run, tmp_path / "out", file_format="csv")
    table = pyarrow.csv.read_csv(tmp_path / "out/table.csv")
    assert table.column_names == [name for name in parquet_columns(run, tmp_path) if name not in SPEC.vectors]
    assert table["label"].to_pylist() == run.labels().tolist()


def parquet_columns(run, folder):
    export(run, folder / "columns")
    return pq.read_schema(folder / "columns/table.parquet").names


def test_an_attribute_of_a_columns_name_keeps_its_full_name(tmp_path):
    spec = TableSpec(heads=("L00H00",), head_dim=2, embed_dim=4, attributes=("key", "a.b"))
    made = make_run(str(tmp_path / "run"), spec, shards=1, rows=4, attributes=lambda n: {"key": "k", "a.b": str(n)})
    export(Run(made), tmp_path / "out", file_format="csv")
    table = pyarrow.csv.read_csv(tmp_path / "out/table.csv")
    assert table["attributes.key"].to_pylist() == ["k"] * len(table)
    assert table["a.b"].to_pylist() == Run(made).embedding("index")["index"].tolist()


def test_shards_that_cannot_be_read_are_told(run, tmp_path):
    notes = []
    export(run, tmp_path / "out", file_format="csv", note=notes.append)
    assert len(notes) == 2
    assert notes[0].startswith("member names are not known: /data/train-000000.tar: ")
    with pytest.raises(
        UsageError, match=r"cannot be exported: /data/train-000000\.tar: the shard is not there any more"
    ):
        export(run, tmp_path / "pictures", file_format="images")
    assert not (tmp_path / "pictures").exists()


def test_many_small_batches_give_the_same(run, tmp_path, monkeypatch):
    monkeypatch.setattr("clipaudit.run.export_rows._BATCH_BYTES", 1)
    export(run, tmp_path / "a", file_format="npy")
    np.testing.assert_array_equal(np.load(tmp_path / "a/embedding.npy"), run.embedding().values)


@pytest.mark.parametrize("file_format", ["parquet", "npy"])
def test_only_the_columns_that_are_asked_for(run, tmp_path, file_format):
    export(run, tmp_path / "out", columns=["label", "L00H01"], file_format=file_format)
    names = pq.read_schema(tmp_path / ("out/table.parquet" if file_format == "parquet" else "out/rows.parquet")).names
    assert names == (["label", "L00H01"] if file_format == "parquet" else ["label"])


def test_one_name_is_enough(run, tmp_path):
    export(run, tmp_path / "a", file_format="npy", heads="L01H00")
    assert not (tmp_path / "a/L00H00.npy").exists()
    export(run, tmp_path / "b", columns="L01H00")
    assert pq.read_schema(tmp_path / "b/table.parquet").names == ["L01H00"]


def test_every_form_is_known_by_its_table(run, tmp_path):
    for name, form in FORMATS.items():
        if form.shards:
            continue  # this run's shards do not exist; see test_export_images
        export(run, tmp_path / "out", file_format=name, overwrite=True)
        assert (tmp_path / "out" / form.table).exists()


def test_an_empty_run_exports_empty_arrays(tmp_path):
    run = Run(make_run(str(tmp_path / "run"), shards=0))
    export(run, tmp_path / "a", file_format="npy")
    assert np.load(tmp_path / "a/L00H00.npy").shape == (0, 4)
    export(run, tmp_path / "b")
    assert pq.read_metadata(tmp_path / "b/table.parquet").num_rows == 0


def test_what_is_there_stays_unless_an_export_made_it(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    export(run, out)  # an empty directory is fine
    with pytest.raises(UsageError, match="is not empty; give another --out, or --overwrite"):
        export(run, out)
    export(run, out, file_format="npy", overwrite=True)
    assert not (out / "table.parquet").exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_text("cat")
    with pytest.raises(UsageError, match="does not look like an earlier export"):
        export(run, tmp_path / "photos", overwrite=True)
    with pytest.raises(UsageError, match="there is a file of this name"):
        export(run, tmp_path / "photos/cat.jpg", overwrite=True)
    assert (tmp_path / "photos/cat.jpg").read_text() == "cat"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"heads": ["L09H09"]}, "has no head 'L09H09': it has L00H00"),
        ({"columns": ["colour"]}, "has no column 'colour'"),
        ({"file_format": "yaml"}, "must be parquet, csv, npy, fiftyone or images, not 'yaml'"),
        ({"file_format": "csv", "heads": "L00H00"}, "--format csv holds no vectors: leave out --heads"),
        ({"file_format": "csv", "columns": ["key", "L00H00"]}, "--format csv holds no vectors, and L00H00 is one"),
        ({"where": "place = moon"}, "has attributes.place = moon: there is"),
    ],
)
def test_a_wrong_wish_is_one_sentence(run, tmp_path, options, sentence):
    with pytest.raises(UsageError, match=sentence):
        export(run, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing_and_the_old_export_whole(run, tmp_path, monkeypatch):
    export(run, tmp_path / "out")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("clipaudit.run.export_tables._begin_npy", full)
    with pytest.raises(StorageFull, match="no space left"):
        export(run, tmp_path / "out", file_format="npy", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert pq.read_metadata(tmp_path / "out/table.parquet").num_rows == 94


def test_the_recipes_of_the_documentation_work_as_they_stand(tmp_path, monkeypatch, capsys):
    for name in ("duckdb", "polars"):
        pytest.importorskip(name, reason=f"{name} is no dependency of clipaudit; docs/querying.md has recipes for it")
    spec = TableSpec(heads=("L05H00",), head_dim=32, embed_dim=96, label_kind="int", attributes=("place",))
    make_run(str(tmp_path / "demo-out/birds-run"), spec)
    leftover = tmp_path / "demo-out/birds-run/projections/000000-dead.parquet"
    leftover.write_bytes(b"a lost attempt")
    export(str(tmp_path / "demo-out/birds-run"), tmp_path / "train-vectors")
    export(str(tmp_path / "demo-out/birds-run"), tmp_path / "train-arrays", file_format="npy")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/querying.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 7
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/querying.md", "exec"), names)
    printed = capsys.readouterr().out
    for expected in ("(94, 32) float16", "(94, 96)", "(30, 32)", "Array(Float32, shape=(32,)) (94, 32)", "(94, 32) 94"):
        assert expected in printed
    assert "similarity" in printed
