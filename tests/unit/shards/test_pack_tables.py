"""`pack` of a flat folder with a table: columns, paths as people write them, encodings, and what is refused."""

from __future__ import annotations

import csv
import json
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipaudit.errors import UsageError
from clipaudit.shards.pack import pack, plan
from clipaudit.shards.sources.options import SourceOptions
from clipaudit.shards.sources.tables import open_table
from tests.unit.shards.test_pack import config_for, make_folders, samples_of

TEXTS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12)


@pytest.fixture
def photos(tmp_path):
    return make_folders(
        tmp_path / "photos", {f"{name}{i}.jpg": f"{name}{i}".encode() for name in "ab" for i in range(3)}
    )


def write_table(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


ROWS = "path,label,place,split\na0.jpg,cat,sea,train\na1.jpg,cat,land,val\nb0.jpg,dog,sea,train\n"


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(TEXTS.filter(lambda text: text.strip()), TEXTS), min_size=1, max_size=8),
    kind=st.sampled_from(("csv", "tsv", "jsonl", "parquet")),
    shuffle=st.sampled_from((None, 3)),
)
def test_every_image_keeps_its_label_and_its_columns(tmp_path_factory, rows, kind, shuffle):
    import pyarrow
    import pyarrow.parquet

    root = tmp_path_factory.mktemp("source")
    names = [f"{number}.jpg" for number in range(len(rows))]
    make_folders(root, {name: f"image {name}".encode() for name in names})
    table = root / f"rows.{kind}"
    records = [{"file": name, "class": label, "text": text} for name, (label, text) in zip(names, rows, strict=True)]
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), table)
    elif kind == "jsonl":
        table.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(records[0]), delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(records)
    out = tmp_path_factory.mktemp("packed") / "out"
    pack(config_for(table, out, shuffle=shuffle))
    samples = samples_of(out)
    assert len(samples) == len(rows)
    for data, label, document in samples:
        record = records[names.index(document["path"])]
        assert data == f"image {document['path']}".encode()
        assert label == " ".join(record["class"].split())
        assert (document["class"], document["text"]) == (record["class"], record["text"])


@pytest.mark.parametrize("as_directory", [True, False])
def test_a_csv_beside_the_images(photos, tmp_path, as_directory):
    table = write_table(photos / "labels.csv", ROWS)
    packing = pack(config_for(photos if as_directory else table, tmp_path / "out"))
    assert (packing.samples, packing.class_names, packing.splits) == (3, ["cat", "dog"], {"train": 2, "val": 1})
    assert packing.columns == ["label", "place", "split"]
    documents = {data: (label, document) for data, label, document in samples_of(tmp_path / "out")}
    assert documents[b"a1"] == ("cat", {"path": "a1.jpg", "split": "val", "label": "cat", "place": "land"})


def test_the_columns_are_found_by_their_values_or_named(photos, tmp_path):
    table = write_table(photos / "t.csv", "id;where is it;kind;words\n1;a0.jpg;cat;one\n2;b0.jpg;dog;two\n")
    options = SourceOptions(label="kind", caption="words")
    pack(config_for(table, tmp_path / "out", options=options))
    samples = samples_of(tmp_path / "out")
    assert Counter((data, label) for data, label, _ in samples) == {(b"a0", "cat"): 1, (b"b0", "dog"): 1}
    import tarfile

    with tarfile.open(tmp_path / "out/shard-000000.tar") as tar:
        texts = {tar.extractfile(name).read() for name in tar.getnames() if name.endswith(".txt")}
    assert texts == {b"one", b"two"}
    with pytest.raises(UsageError, match=r"--label 'breed': .* no such column, but id, where is it, kind, words"):
        plan(config_for(table, tmp_path / "out", options=SourceOptions(label="breed")))


@pytest.mark.parametrize(("encoding", "option"), [("utf-8-sig", None), ("utf-16", "utf-16"), ("cp1252", "cp1252")])
def test_encodings(photos, tmp_path, encoding, option):
    table = write_table(photos / "t.csv", "path,label\r\na0.jpg,Bär\r\nb0.jpg,dog\r\n", encoding)
    options = SourceOptions(encoding=option or "utf-8-sig")
    assert pack(config_for(table, tmp_path / "out", options=options)).class_names == ["Bär", "dog"]


def test_windows_paths_and_folders_with_the_same_names(tmp_path):
    root = make_folders(tmp_path / "photos", {"x/1.jpg": b"x", "y/1.jpg": b"y", "y/z/1.jpg": b"z"})
    table = write_table(root / "t.csv", "file,label\nx\\1.jpg,a\n.\\y\\1.jpg,b\ny\\z\\1.jpg,c\n")
    pack(config_for(table, tmp_path / "out"))
    assert {(data, label) for data, label, _ in samples_of(tmp_path / "out")} == {(b"x", "a"), (b"y", "b"), (b"z", "c")}


def test_rows_that_are_left_out_have_their_reasons(photos, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (photos / "link.jpg").symlink_to("../secret.jpg")
    rows = [
        "a0.jpg,cat",
        "missing.jpg,cat",
        "../secret.jpg,cat",
        f"{tmp_path}/secret.jpg,cat",
        "link.jpg,cat",
        "C:\\photos\\a1.jpg,cat",
        "a0.jpg,dog",
        "./a0.jpg,dog",
        "a1.jpg,",
        ",cat",
        "a2.jpg,cat,9",
        f"{photos}/b1.jpg,dog",
    ]
    table = write_table(photos / "t.csv", "path,label\n" + "\n".join(rows))
    packing = pack(config_for(table, tmp_path / "out"))
    assert {(data, label) for data, label, _ in samples_of(tmp_path / "out")} == {(b"a0", "cat"), (b"b1", "dog")}
    assert packing.left_out == {
        "missing_file": 1, "outside": 4, "repeated_path": 2, "no_label": 1, "no_path": 1, "bad_row": 1,
    }  # fmt: skip
    assert packing.examples["bad_row"] == ["line 12 has 3 cells, the header 2"]


def test_numbers_as_labels_keep_their_order(photos, tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"path": f"a{i}.jpg", "label": label, "when": None} for i, label in enumerate((10.0, 9.0, 10.0))]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), photos / "t.parquet")
    assert pack(config_for(photos / "t.parquet", tmp_path / "out")).class_names == ["9", "10"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"a0.jpg,cat\nb0.jpg,dog\n", r"has no header \(a0.jpg in its first line is a file\)"),
        ("t.csv", b"", "has no header: its first line must name the columns"),
        (
            "t.csv",
            b"path,label\na0.jpg,B\xe4r\n",
            "is not UTF-8 throughout .* read others with --encoding",
        ),
        ("t.csv", "path,label\na0.jpg,x\n".encode("utf-16"), "--encoding"),
        ("t.csv", b"path,label,label\na0.jpg,x,y\n", "has the column 'label' twice"),
        ("t.csv", b"path,label\n/data/old/a0.jpg,x\n", "absolute paths .* such as /data/old/a0.jpg: .* --images"),
        ("t.csv", b"path,label\nC:\\old\\a0.jpg,x\n", r"absolute paths .* such as C:\\old\\a0.jpg: .* --images"),
        ("t.csv", b"path,label\nold/a0.jpg,x\n", "none of the files .* such as old/a0.jpg: .* --images"),
        ("t.csv", b"url,label\nhttp://x/a.jpg,x\n", "holds addresses"),
        ("t.csv", b"image,label\nhttps://x/a.jpg,x\n", "'image' holds addresses .*download the images first"),
        ("t.jsonl", b"[1]\n", "line 1 is no json object"),
        ("t.jsonl", b"", "it has no rows"),
        ("t.parquet", b"PAR1 no", "cannot be read as Parquet"),
        ("t.xlsx", b"PK", "is no directory, CSV, TSV, JSONL, Parquet"),
        ("t.zip", b"PK", "is compressed: unpack it"),
    ],
)
def test_bad_tables_are_one_sentence_and_leave_nothing(photos, tmp_path, name, content, message):
    (photos / name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        pack(config_for(photos / name, tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_two_tables_are_asked_about_and_the_hubs_metadata_is_taken(photos, tmp_path):
    write_table(photos / "a.csv", ROWS)
    write_table(photos / "b.csv", ROWS)
    with pytest.raises(UsageError, match=r"several tables \(a.csv, b.csv\): give one of them"):
        plan(config_for(photos, tmp_path / "out"))
    write_table(photos / "metadata.csv", "file_name,label\nb1.jpg,x\n")
    assert plan(config_for(photos, tmp_path / "out")).images == 1


def test_a_split_column_chooses(photos, tmp_path):
    table = write_table(photos / "t.csv", ROWS)
    packing = pack(config_for(table, tmp_path / "out", options=SourceOptions(split="val")))
    assert (packing.samples, packing.left_out) == (1, {"other_split": 2})


def test_images_elsewhere(photos, tmp_path):
    table = write_table(tmp_path / "t.csv", ROWS)
    assert pack(config_for(table, tmp_path / "out", options=SourceOptions(images=str(photos)))).samples == 3
    with pytest.raises(UsageError, match=r"--images .* is no directory"):
        plan(config_for(table, tmp_path / "o", options=SourceOptions(images=str(tmp_path / "no"))))


def test_another_row_makes_another_plan(photos, tmp_path):
    table = write_table(photos / "t.csv", ROWS)
    pack(config_for(table, tmp_path / "out"))
    assert pack(config_for(table, tmp_path / "out")).finished_before == 1
    write_table(table, ROWS.replace("land", "lake"))
    with pytest.raises(UsageError, match="the source has changed since"):
        pack(config_for(table, tmp_path / "out"))


def test_half_surrogate_pairs_in_a_json_stop_nothing(photos, tmp_path):
    rows = [
        {"path": "a0.jpg", "label": "x\ud800", "split": "\ud800", "note": "\udfff"},
        {"path": "\ud800.jpg", "label": "x"},
    ]
    table = write_table(photos / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    packing = pack(config_for(table, tmp_path / "out", options=SourceOptions(caption="note")))
    assert packing.left_out == {"missing_file": 1}
    assert packing.class_names == ["x\\ud800"]
    assert [label for _, label, _ in samples_of(tmp_path / "out")] == ["x\\ud800"]


def test_rows_of_jsonl_may_begin_without_a_column(photos, tmp_path):
    rows = [{"path": "a1.jpg"}, {"path": "a2.jpg", "label": "cat", "light": 0.5}]
    table = write_table(photos / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert open_table(str(table), "utf-8-sig").columns == ["path", "label", "light"]
    packing = plan(config_for(table, tmp_path / "out"))
    assert (packing.class_names, packing.left_out) == (["cat"], {"no_label": 1})


def test_a_key_that_stands_twice_in_a_row_is_no_row(photos):
    lines = '{"path": "1.jpg", "label": "cat"}\n{"path": "2.jpg", "label": "a", "label": "b"}\n'
    table = write_table(photos / "t.jsonl", lines)
    rows = list(open_table(str(table), "utf-8-sig").rows())
    assert rows[1] == "line 2: label is given twice"


@pytest.mark.parametrize("cell", ['"open', '"a"b'])
def test_a_quote_that_is_not_closed_is_told_and_swallows_no_rows(photos, cell):
    table = write_table(photos / "t.csv", f"path,label\n1.jpg,{cell}\n2.jpg,cat\n")
    with pytest.raises(UsageError, match=r"t.csv, line [23]: "):
        list(open_table(str(table), "utf-8-sig").rows())
