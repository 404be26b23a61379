"""Columns joined to a run after its job: which image a row names, types, provenance, and their use by all readers."""

import contextlib
import dataclasses
import json
import shutil
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipaudit.errors import IntegrityError, StorageFull, UsageError
from clipaudit.retrieval.rowmap import RowMap, segments_for
from clipaudit.run.column_join import JoinOptions, add_columns
from clipaudit.run.column_list import drop_columns, export_columns, list_columns
from clipaudit.run.columns import read_columns
from clipaudit.run.directory import RunDirectory
from clipaudit.run.export import export
from clipaudit.run.growth import Move
from clipaudit.run.integrity import check
from clipaudit.run.number_bins import number_bins
from clipaudit.run.reader import Run
from clipaudit.run.rows import Rows, check_rows, chosen_rows, group_column, stream_rows
from clipaudit.run.upkeep import gc
from clipaudit.schema import IMAGE_PROPERTIES, OK
from clipaudit.storage.directory import Storage
from tests.make_runs import SPEC, make_manifest, make_run, make_samples, make_shard, make_vectors, write_attempt

ROWS, FAILURES = 12, (5,)


def key(index):
    return f"train/{index:014d}"


def make(path, spec=SPEC, shards=3, rows=ROWS):
    """A run whose shards have the same keys."""
    return make_run(str(path), spec, shards, rows, FAILURES)


@pytest.fixture
def run(tmp_path):
    return make(tmp_path / "run")


@pytest.fixture
def single(tmp_path):
    """A run of one shard, whose keys are unique."""
    return make(tmp_path / "single", shards=1)


def table(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def of_shards(column, values, shards=(0, 1, 2)):
    return f"shard,key,{column}\n" + "".join(f"{s},{key(i)},{values(s, i)}\n" for s in shards for i in range(ROWS))


# -- which image a row names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [lambda s: s, lambda s: make_shard(s).url, lambda s: f"train-{s:06d}.tar"])
def test_a_shard_is_named_by_id_url_or_file_name(run, tmp_path, name):
    lines = "".join(f"{name(s)},{key(i)},{10 * s + i}\n" for s in (2, 0) for i in (7, 3))
    joined = add_columns(run, table(tmp_path, "shard,key,number\n" + lines))
    assert (joined.by, joined.matched, joined.images) == ("shard,key", 4, 3 * (ROWS - 1))
    rows = Run(run).table(["shard_id", "index", "number"]).to_pylist()
    known = {(row["shard_id"], row["index"]): row["number"] for row in rows if row["number"] is not None}
    assert known == {(2, 7): 27, (2, 3): 23, (0, 7): 7, (0, 3): 3}


def test_keys_alone_are_enough_where_they_are_unique(single, run, tmp_path):
    path = table(tmp_path, f"key,light\n{key(3)},0.5\n{key(0)},1\n")
    assert add_columns(single, path).by == "key"
    assert Run(single).table(["light"])["light"].to_pylist()[:4] == [1.0, None, None, 0.5]
    with pytest.raises(UsageError, match=r"2 of the table's keys are those of several images .* add a column shard"):
        add_columns(run, path)
    assert not read_columns(run)


def test_unknown_keys_are_counted_with_three_examples(single, tmp_path):
    path = table(tmp_path, "key,light\n" + "".join(f"nobody-{n},1\n" for n in range(5)) + f"{key(1)},2\n")
    with pytest.raises(UsageError, match=r"5 of 6 rows name no image .* such as nobody-0, nobody-1, nobody-2: mend"):
        add_columns(single, path)
    assert not read_columns(single)
    joined = add_columns(single, path, JoinOptions(ignore_unknown=True))
    assert (joined.unknown, joined.matched, joined.columns[0].unknown) == (5, 1, 5)
    foreign = table(tmp_path, "key,light\na,1\n")
    with pytest.raises(UsageError, match=rf"its keys are such as {key(0)}"):  # even where unknown ones are ignored
        add_columns(single, foreign, JoinOptions(name="other", ignore_unknown=True))


def test_unknown_shards_are_named(run, tmp_path):
    with pytest.raises(UsageError, match=f"such as other.tar {key(0)}"):
        add_columns(run, table(tmp_path, f"shard,key,light\nother.tar,{key(0)},1\n0,{key(1)},1\n"))


def test_a_repeated_key_is_refused(single, tmp_path):
    path = table(tmp_path, f"key,light\n{key(3)},1\n{key(4)},1\n{key(3)},2\n")
    with pytest.raises(UsageError, match=rf"1 key repeats in the table, such as {key(3)} in rows 1 and 3"):
        add_columns(single, path)


def test_many_rows_in_any_order_come_to_their_images(tmp_path):
    rng = np.random.default_rng(0)
    directory = make(tmp_path / "run", shards=7, rows=40)
    places = [(s, i) for s in range(7) for i in range(40) if rng.random() < 0.6]
    lines = [f"{s},{key(i)},{s * 100 + i}\n" for s, i in rng.permutation(places).tolist()]
    add_columns(directory, table(tmp_path, "shard,key,number\n" + "".join(lines)))
    expected = {place: place[0] * 100 + place[1] for place in places}
    reader = Run(directory)
    for batch in reader.batches(["shard_id", "index", "attributes"], rows=7):
        for row in batch.to_pylist():
            assert row["attributes"]["number"] == expected.get((row["shard_id"], row["index"]))
    vectors = reader.heads("L00H00", columns=("number", "place"), shards=[5, 2])
    for shard, index, number in zip(vectors.shard_id, vectors.index, vectors["number"], strict=True):
        assert np.array_equal(number, expected.get((shard, index), np.nan), equal_nan=True)


# -- types ------------------------------------------------------------------------------------------------------------


def test_cells_of_a_csv_are_typed_by_all_of_them(single, tmp_path):
    cells = ['1,0.5,True,007,,"[""red"",""wet""]"', "2,3,FALSE,008,,[]", ",1e-3,,,,"]
    path = table(
        tmp_path, "key,whole,share,day,code,empty,tags\n" + "".join(f"{key(i)},{c}\n" for i, c in enumerate(cells))
    )
    add_columns(single, path)
    reader = Run(single)
    names = ("whole", "share", "day", "code", "empty", "tags")
    kinds = {name: reader.column_types()[f"attributes.{name}"] for name in names}
    assert kinds == dict(zip(names, ("number", "number", "boolean", "text", "text", "list of texts"), strict=True))
    rows = reader.table(names).to_pylist()[:3]
    assert [row["whole"] for row in rows] == [1, 2, None]
    assert [row["day"] for row in rows] == [True, False, None]
    assert [row["code"] for row in rows] == ["007", "008", None]
    assert [row["tags"] for row in rows] == [["red", "wet"], [], None]


def test_jsonl_and_parquet_keep_their_types(single, tmp_path):
    rows = [
        {"key": key(0), "postcode": "01234", "score": 1, "tags": ["a"], "flag": True},
        {"key": key(1), "postcode": "5", "score": 0.5, "tags": [], "flag": None},
    ]
    add_columns(single, table(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "t.jsonl"))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    add_columns(single, tmp_path / "t.parquet", JoinOptions(prefix="p_"))
    types = Run(single).column_types()
    for name, kind in {"postcode": "text", "score": "number", "tags": "list of texts", "flag": "boolean"}.items():
        assert types[f"attributes.{name}"] == types[f"attributes.p_{name}"] == kind


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([["a"], "b"], "lists of texts in some rows and text in others"),
        ([["a"], [1]], "of row 2 it is a list of other things than texts"),
        ([{"x": 1}, "b"], "a column holds numbers, booleans, texts or lists of texts: leave it out with --only"),
    ],
)
def test_a_mixed_column_is_refused_and_nothing_is_written(single, tmp_path, values, message):
    lines = "".join(json.dumps({"key": key(i), "good": i, "bad": value}) + "\n" for i, value in enumerate(values))
    with pytest.raises(UsageError, match=message):
        add_columns(single, table(tmp_path, lines, "t.jsonl"))
    assert not single.storage.names("columns")


def test_keys_that_differ_by_spaces_alone_are_no_matter_of_chance(tmp_path):
    run = RunDirectory(str(tmp_path / "run"))
    run.create(make_manifest(SPEC, (make_shard(0),)))
    samples = [dataclasses.replace(sample, key=name) for sample, name in zip(make_samples(2), ("a", "a "), strict=True)]
    run.commit(write_attempt(run, make_shard(0), SPEC, samples, *make_vectors(SPEC, 2)))
    with pytest.raises(UsageError, match="are those of several images of the run, such as a"):
        add_columns(run, table(tmp_path, "key,light\na ,1\n"))


# -- names, records, removal ------------------------------------------------------------------------------------------


def test_names_that_the_run_has_are_refused(single, tmp_path):
    path = table(tmp_path, f"key,place,width,Is it?\n{key(0)},a,1,x\n")
    for only in ("place", "width"):
        with pytest.raises(UsageError, match=f"has a column '{only}' of its own"):
            add_columns(single, path, JoinOptions(only=only, replace=True))
    with pytest.raises(UsageError, match=r"'Is it\?' cannot be the name of a column .* --name NAME"):
        add_columns(single, path, JoinOptions(only="Is it?"))
    add_columns(single, path, JoinOptions(only="Is it?", name="asked"))
    with pytest.raises(UsageError, match="joined column 'asked' already: give --replace"):
        add_columns(single, path, JoinOptions(only="place", name="asked"))
    add_columns(single, path, JoinOptions(only="place", name="asked", replace=True))
    assert Run(single).table("asked")["asked"][0].as_py() == "a"
    assert len(single.storage.names("columns")) == 2  # the file of the older one is gone
    with pytest.raises(UsageError, match="--only nothing: the table has place, width, Is it"):
        add_columns(single, path, JoinOptions(only="nothing"))


def test_a_record_says_where_values_come_from(single, tmp_path):
    path = table(tmp_path, f"key,light\n{key(0)},1\n")
    record = add_columns(single, path, JoinOptions(author="Ada")).columns[0]
    stored = read_columns(single)["light"]
    assert stored == record
    assert (stored.source, stored.author, stored.by, stored.rows) == (str(path), "Ada", "key", 1)
    assert len(stored.source_sha256) == 64


def test_a_dry_run_writes_nothing(single, tmp_path):
    joined = add_columns(single, table(tmp_path, f"key,light\n{key(0)},1\n"), dry_run=True)
    assert (joined.columns[0].kind, joined.matched) == ("integer", 1)
    assert not read_columns(single)


def test_drop_names_the_nearest_and_removes_nothing_else(single, tmp_path):
    add_columns(single, table(tmp_path, f"key,light,wet\n{key(0)},1,true\n"))
    with pytest.raises(UsageError, match="no joined column 'ligth': did you mean light"):
        drop_columns(single, ["wet", "ligth"])
    with pytest.raises(UsageError, match="'place' is a column of the job"):
        drop_columns(single, "place")
    assert drop_columns(single, "attributes.light") == ["light"]
    assert Run(single).attributes == ("place", "wet")


def test_of_two_that_add_one_name_at_once_one_is_told(single, tmp_path):
    tables = [table(tmp_path, f"key,light{n},light\n{key(0)},1,{n}\n", f"{n}.csv") for n in range(8)]
    errors = []

    def add(path):
        try:
            add_columns(single, path)
        except UsageError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=add, args=(path,)) for path in tables]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 7
    # what the losers had written is gone: the winner's two columns are whole
    value = Run(single).table("light")["light"][0].as_py()
    assert set(read_columns(single)) == {"light", f"light{value}"}
    assert len(single.storage.names("columns")) == 4
    assert not check(single).problems


class Killed(BaseException):
    """The process is gone: nothing that it would do is done any more."""


def writes_until(number, monkeypatch):
    """Let a Storage do so many writes and removals, and none from then on; returns the list of those that it did."""
    done = []

    def counted(original):
        def call(self, *args):
            if len(done) == number:
                raise Killed
            result = original(self, *args)
            done.append(args)
            return result

        return call

    for name in ("create", "replace", "open_new", "remove"):
        monkeypatch.setattr(Storage, name, counted(getattr(Storage, name)))
    return done


def test_a_kill_between_any_two_writes_of_a_replacement_leaves_the_old_or_the_new_column(single, tmp_path, monkeypatch):
    old = table(tmp_path, f"key,light,dark\n{key(0)},1,2\n", "old.csv")
    new = table(tmp_path, f"key,light,dark\n{key(0)},10,20\n", "new.csv")
    ends = []
    for number in range(20):
        run = RunDirectory(str(shutil.copytree(single.storage.root, tmp_path / f"run{number}")))
        add_columns(run, old)
        with monkeypatch.context() as patch:
            done = writes_until(number, patch)
            with contextlib.suppress(Killed):
                add_columns(run, new, JoinOptions(replace=True))
        values = Run(run).table(["light", "dark"]).slice(0, 1).to_pylist()[0]
        ends.append((values["light"], values["dark"]))
        assert not check(run).problems
        gc(run, min_age_seconds=0)
        assert len(run.storage.names("columns")) == 4, "two records and two files with values"
        if len(done) < number:
            break
    assert list(dict.fromkeys(ends)) == [(1, 2), (10, 2), (10, 20)]


def test_where_one_column_cannot_be_replaced_the_others_stay_as_they_were(single, tmp_path, monkeypatch):
    add_columns(single, table(tmp_path, f"key,light,dark\n{key(0)},1,2\n"))
    replaced = Storage.replace

    def replace(self, path, data):
        if path == "columns/dark.json":
            raise StorageFull("no space left")
        replaced(self, path, data)

    monkeypatch.setattr(Storage, "replace", replace)
    with pytest.raises(StorageFull):
        add_columns(single, table(tmp_path, f"key,light,dark\n{key(0)},10,20\n"), JoinOptions(replace=True))
    assert Run(single).table(["light", "dark"]).slice(0, 1).to_pylist() == [{"light": 1, "dark": 2}]
    assert len(single.storage.names("columns")) == 4
    assert not check(single).problems


def test_a_table_may_name_shards_by_where_they_were(tmp_path):
    run = make(tmp_path / "run")
    shards = Run(run).manifest.shards
    old = shards[1].url.rpartition("/")[0]
    assert run.move(Move(number=1, prefixes=((old, "/new/home"),)))
    assert Run(run).manifest.shards[1].url.startswith("/new/home/")
    rows = "".join(f"{shard.url},{key(0)},{shard.id}\n" for shard in shards)
    add_columns(run, table(tmp_path, f"shard,key,place_then\n{rows}"))
    assert Run(run).table("place_then")["place_then"].drop_null().to_pylist() == [0, 1, 2]


def test_a_table_at_a_url_is_named_by_it(single):
    storage = Storage("memory://tables")
    storage.replace("t.csv", b"name,light\nx,1\n")
    with pytest.raises(UsageError, match=r"^memory://tables/t.csv has no column 'key'"):
        add_columns(single, "memory://tables/t.csv")


def test_check_and_gc_know_the_files(single, tmp_path):
    add_columns(single, table(tmp_path, f"key,light\n{key(0)},1\n"))
    assert not check(single).problems
    record = read_columns(single)["light"]
    orphan = "columns/light-0123456789ab.parquet"
    single.storage.replace(orphan, single.storage.read(record.path))
    assert gc(single, min_age_seconds=0) == [orphan]
    data = bytearray(single.storage.read(record.path))
    data[len(data) // 2] ^= 1
    single.storage.replace(record.path, bytes(data))
    assert any("sha256 differs" in problem for problem in check(single).problems)


def test_a_record_may_name_no_other_file(single, tmp_path):
    add_columns(single, table(tmp_path, f"key,light\n{key(0)},1\n"))
    record = dataclasses.replace(read_columns(single)["light"], path="../other.parquet")
    single.storage.replace("columns/light.json", record.to_json())
    with pytest.raises(IntegrityError, match="no file of 'light'"):
        _ = Run(single).attributes


# -- use --------------------------------------------------------------------------------------------------------------


def test_filters_groups_and_rows_take_joined_columns(run, tmp_path):
    lines = "".join(
        f'{s},{key(i)},{i / 4},"[""t{i % 3}"",""all""]",{str(i % 2 == 0).lower()}\n' for s in (0, 1) for i in range(8)
    )
    add_columns(run, table(tmp_path, "shard,key,light,tags,day\n" + lines))
    reader = Run(run)

    def count(where):
        return sum(len(batch) for batch in stream_rows(reader, (), ["key"], chosen_rows(reader, where)))

    # 5 could not be decoded
    assert count("light > 1") == 2 * 2
    assert count(("day = true", "tags has t0")) == 2 * 2
    assert count("tags not has t0") == 2 * 4
    assert count("tags is null") == 2 * 4 + 11
    assert count("tags is not null") == 2 * 7
    assert group_column(reader, "day") == "attributes.day"
    with pytest.raises(UsageError, match="holds lists of texts, and rows are grouped by single values"):
        group_column(reader, "tags")
    with pytest.raises(UsageError, match="did you mean light"):
        group_column(reader, "ligth")
    with pytest.raises(UsageError, match=r"no row .* has attributes.tags has t9: there is all, t0, t1, t2"):
        check_rows(reader, chosen_rows(reader, "tags has t9"))
    values = next(iter(stream_rows(reader, (), ["attributes.day"]))).columns["attributes.day"]
    assert values[:2].tolist() == ["true", "false"]  # groups are texts


def test_an_empty_list_is_a_value(single, tmp_path):
    lists = ("[]", '["a"]', "null")
    lines = "".join(f'{{"key": "{key(row)}", "tags": {tags}}}\n' for row, tags in enumerate(lists))
    add_columns(single, table(tmp_path, lines, "t.jsonl"))

    def keys(where):
        rows = stream_rows(Run(single), (), ["key"], chosen_rows(Run(single), where))
        return [name for batch in rows for name in batch.columns["key"].tolist()]

    assert keys("tags is not null") == [key(0), key(1)]
    assert keys("tags is null") == [key(row) for row in range(2, ROWS) if row not in FAILURES]
    assert keys("tags not has a") == [key(0)]


@pytest.mark.parametrize("attributes", [("place",), ()])
def test_an_index_of_before_sees_columns_of_later(tmp_path, attributes):
    spec = dataclasses.replace(SPEC, attributes=attributes)
    directory = make(tmp_path / "run", spec)
    segments = segments_for(Run(directory))
    add_columns(directory, table(tmp_path, of_shards("code", lambda s, i: f"{s}{i:02d}")))
    rows = RowMap(Run(directory), segments)
    chosen = np.flatnonzero(rows.mask("code = 103 or code = '203'"))
    assert [(row.shard_id, row.index) for row in rows.rows(chosen)] == [(1, 3), (2, 3)]
    assert rows.rows(chosen)[0].attributes["code"] == "103"
    drop_columns(directory, "code")
    with pytest.raises(UsageError, match="column 'code' is not in"):
        RowMap(Run(directory), segments).mask("code = 103")


def test_exports_have_them_and_go_back_in(run, tmp_path):
    add_columns(run, table(tmp_path, of_shards("tags", lambda s, i: f'"[""{s}"",""x, y""]"', (0, 1))))
    export(run, tmp_path / "csv", file_format="csv", where="tags has 1")
    assert "x, y" in (tmp_path / "csv" / "table.csv").read_text()
    for name in ("e.csv", "e.parquet", "e.jsonl"):
        assert export_columns(run, tmp_path / name, only="tags", where="tags is not null") == 2 * (ROWS - 1)
        drop_columns(run, "tags")
        joined = add_columns(run, tmp_path / name)
        assert (joined.by, joined.columns[0].kind, joined.matched) == ("shard,key", "texts", 2 * (ROWS - 1))
    with pytest.raises(UsageError, match="exists: give another name"):
        export_columns(run, tmp_path / "e.csv")
    with pytest.raises(UsageError, match=r"must end in .csv, .parquet or .jsonl"):
        export_columns(run, tmp_path / "e.xlsx")


def test_the_list_says_type_values_nulls_and_origin(run, tmp_path):
    path = table(tmp_path, of_shards("light", lambda s, i: s + i / 100, (0,)))
    add_columns(run, path, JoinOptions(author="Ada"))
    facts = {column.name: column for column in list_columns(run)}
    assert (facts["attributes.place"].values, facts["attributes.place"].origin) == ("land, water", "job")
    light = facts["attributes.light"]
    assert (light.type, light.values, light.rows, light.nulls) == ("number", "0 to 0.11", ROWS - 1, 2 * (ROWS - 1))
    assert light.origin.startswith(str(path))
    assert light.origin.endswith("by Ada")


def test_a_run_without_attributes_gets_its_first_one(tmp_path):
    spec = dataclasses.replace(SPEC, attributes=(), caption=False)
    directory = make(tmp_path / "run", spec)
    add_columns(directory, table(tmp_path, of_shards("light", lambda s, i: i)))
    reader = Run(directory)
    assert reader.heads("L00H00", columns="light")["light"].tolist()[:3] == [0, 1, 2]
    assert reader.schema().names == [name for name in reader.columns if name not in spec.vectors]
    assert not check(directory).problems


def test_a_read_only_run_is_told_before_anything_is_read(single, tmp_path, monkeypatch):
    monkeypatch.setattr("clipaudit.run.derived.os.access", lambda path, mode: False)
    with pytest.raises(UsageError, match="read-only"):
        add_columns(single, tmp_path / "not-there.csv")


# -- image properties -------------------------------------------------------------------------------------------------


def test_image_properties_are_columns_of_new_runs(tmp_path):
    spec = dataclasses.replace(SPEC, image_properties=IMAGE_PROPERTIES)
    directory = make(tmp_path / "run", spec)
    assert Run(directory).table("image.border")["image.border"].null_count == 3 * ROWS  # make_run measures nothing
    manifest = make_manifest(spec, 1)
    other = RunDirectory(str(tmp_path / "measured"))
    other.create_or_resume(manifest)
    samples = make_samples(ROWS, FAILURES)
    for sample in samples:
        if sample.status == OK:
            values = dict.fromkeys(IMAGE_PROPERTIES, sample.index / 8) | {"jpeg_quality": float("nan")}
            sample.image_properties = tuple(values.values())
    other.commit(write_attempt(other, manifest.shards[0], spec, samples, *make_vectors(spec, ROWS - len(FAILURES))))
    run = Run(other)
    assert run.column_types()["image.brightness"] == "number"
    table = run.table(["image.brightness", "image.jpeg_quality", "image"])
    assert table["image.brightness"].to_pylist() == [None if i in FAILURES else i / 8 for i in range(ROWS)]
    assert table["image.jpeg_quality"].null_count == ROWS
    assert run.heads("L00H00", "image.contrast")["image.contrast"].tolist()[:3] == [0, 1 / 8, 2 / 8]
    rows = [b.columns["key"].tolist() for b in stream_rows(run, (), ["key"], chosen_rows(run, "image.aspect < .25"))]
    assert rows == [[key(0), key(1)]]
    assert group_column(run, "image.border") == "image.border"
    assert export_columns(other, tmp_path / "e.jsonl", only="image.sharpness", where="brightness > 1") == 3
    assert json.loads((tmp_path / "e.jsonl").read_text().splitlines()[0])["image.sharpness"] == 9 / 8
    indexed = RowMap(run, segments_for(run))
    assert indexed.rows(np.flatnonzero(indexed.mask("image.megapixels > 1.2")))[0].image["kilobytes"] == 10 / 8
    facts = {column.name: column for column in list_columns(run)}
    assert facts["image.border"].origin == "measured while decoding"


def test_a_run_of_before_says_that_nothing_was_measured(single):
    with pytest.raises(UsageError, match="image properties were not measured yet when the run was begun"):
        group_column(Run(single), "image.brightness")
    with pytest.raises(UsageError, match=r"column 'image.brightness' is not in"):
        chosen_rows(Run(single), "image.brightness < 1")


def test_fractions_are_groups_by_ranges(run, tmp_path):
    add_columns(run, table(tmp_path, of_shards("light", lambda s, i: (s * ROWS + i) / 8)))
    add_columns(run, table(tmp_path, of_shards("count", lambda s, i: i)))
    reader = Run(run)
    bins = number_bins(reader, "attributes.light", Rows())
    values = [batch.columns["attributes.light"] for batch in stream_rows(reader, (), ["attributes.light"])]
    names = bins.of(np.concatenate(values).tolist())
    counts = [int((names == name).sum()) for name in bins.names]
    assert len(counts) == 5
    assert sum(counts) == len(reader)
    assert max(counts) - min(counts) <= 1
    assert bins.names[0] == "0 to 0.75"
    assert bins.of([None]).tolist() == [None]
    assert number_bins(reader, "attributes.count", Rows()) is None, "whole numbers may be names"
    assert number_bins(reader, "attributes.place", Rows()) is None
    assert number_bins(reader, "attributes.light", chosen_rows(reader, "light < .3")) is None
