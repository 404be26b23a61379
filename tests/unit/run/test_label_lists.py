"""Runs whose images have several labels: what is stored, counted, filtered and exported."""

import csv
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipaudit.errors import UsageError
from clipaudit.run.export import export
from clipaudit.run.integrity import check
from clipaudit.run.reader import Run
from clipaudit.run.rows import Rows, chosen_rows, moments_over, stream_rows
from clipaudit.schema import OK
from tests.make_runs import SPEC, make_run

LISTS = (("dog", "cat"), (), ("dog",), ("potted plant", "dog"))
NUMBERS = ((3, 1), (), (3,), (7, 3))


def listed(folder, kind="strings", lists=LISTS, **options):
    spec = replace(SPEC, label_kind=kind)
    return Run(make_run(str(folder), spec, rows=40, label=lambda i: lists[i % len(lists)], **options))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """80 rows in two shards, 6 of them failures, with LISTS in turn."""
    return listed(tmp_path_factory.mktemp("lists") / "run", failures=(0, 7, 39))


def rows_of(run, where):
    return [key for batch in stream_rows(run, (), ["key"], chosen_rows(run, where)) for key in batch.columns["key"]]


def test_lists_are_stored_as_lists_and_read_as_tuples(run):
    for file in run.files:
        assert pq.read_schema(file).field("label").type == pa.list_(pa.string())
    labels = run.labels()
    assert labels.shape == (len(run),)
    assert set(labels.tolist()) == set(LISTS)
    assert run.heads("L00H00")["label"].tolist() == labels.tolist()
    assert run.column_types()["label"] == "list of texts"
    assert "label" in repr(run)


def test_counts_and_moments_of_a_label_are_of_the_images_that_have_it(run):
    present = {name: np.array([name in label for label in run.labels()]) for name in ("dog", "cat", "potted plant")}
    assert run.label_counts() == {name: int(mask.sum()) for name, mask in present.items()}
    values = run.heads("L01H00").values.astype(float)
    for name, mask in present.items():
        moments = run.moments("L01H00", label=name)
        assert moments.count == mask.sum()
        np.testing.assert_allclose(moments.mean(), values[mask].mean(axis=0), atol=1e-12)
    assert run.moments(label="zebra").count == 0


@pytest.mark.parametrize("policy", ["all", "none"])
def test_stored_moments_are_those_of_the_rows(tmp_path, policy):
    run = listed(tmp_path / "run", lists=(("dog",), ("dog", "cat"), ()), failures=(), label_moments=policy)
    values = run.heads("L00H01").values.astype(float)
    has = np.array(["cat" in label for label in run.labels()])
    np.testing.assert_allclose(run.moments("L00H01", label="cat").mean(), values[has].mean(axis=0), atol=1e-12)
    assert [problem for problem in check(run.directory.url).problems if "moments" in problem] == []


def test_one_label_that_only_some_images_have_is_not_that_of_all(tmp_path):
    run = listed(tmp_path / "run", lists=(("dog",), ()), failures=(), label_moments="all")
    assert run.moments(label="dog").count == 40
    assert run.moments().count == 80
    assert not np.allclose(run.moments("L00H00", label="dog").mean(), run.moments("L00H00").mean())


@pytest.mark.parametrize(
    ("where", "test"),
    [
        ("label has dog", lambda label: "dog" in label),
        ("label = dog", lambda label: "dog" in label),
        ("label=potted plant", lambda label: "potted plant" in label),
        ("label = 'potted plant' or label has cat", lambda label: {"potted plant", "cat"} & set(label)),
        ("label != dog", lambda label: "dog" not in label),
        ("label not has dog", lambda label: "dog" not in label),
        ("label in (cat, 'potted plant')", lambda label: {"potted plant", "cat"} & set(label)),
        ("label not in (cat, 'potted plant')", lambda label: not {"potted plant", "cat"} & set(label)),
        ("label like 'potted%'", lambda label: "potted plant" in label),
        ("label = dog and label = cat", lambda label: {"dog", "cat"} <= set(label)),
        ("label is null", lambda label: not label),
        ("label is not null", bool),
    ],
)
def test_filters_ask_what_a_list_holds(run, where, test):
    expected = [
        key
        for key, label, status in zip(*run.table(["key", "label", "status"]).to_pydict().values(), strict=True)
        if status == OK and test(tuple(label))
    ]
    assert rows_of(run, where) == expected
    assert rows_of(run, chosen_rows(run, where).where) == expected, "as it is written back"


def test_several_filters_may_ask_for_several_labels(run):
    assert rows_of(run, ["label = dog", "label = cat"]) == rows_of(run, "label has dog and label has cat")


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("label < 3", r"label holds lists of texts such as .*dog.*, which < cannot compare"),
        ("width has 3", r"width holds whole numbers .*, and has asks lists: write width = VALUE"),
    ],
)
def test_a_filter_that_lists_cannot_answer_is_one_sentence(run, where, sentence):
    with pytest.raises(UsageError, match=sentence):
        chosen_rows(run, where)


def test_a_label_that_no_image_has_is_told_with_the_nearest(run):
    from clipaudit.run.rows import check_rows

    with pytest.raises(UsageError, match=r"no row .* has label has dgo: there is dog, .*; did you mean dog\?"):
        check_rows(run, chosen_rows(run, "label = dgo"))


def test_moments_over_a_label_are_the_stored_ones(run):
    rows = chosen_rows(run, "label has dog")
    assert moments_over(run, rows).count == run.label_counts()["dog"]
    assert moments_over(run, Rows(where=("label has dog", "width > 0"))).count == run.label_counts()["dog"]


def test_numbers_in_lists(tmp_path):
    run = listed(tmp_path / "run", "ints", NUMBERS, failures=())
    assert run.label_counts() == {3: 60, 1: 20, 7: 20}
    assert run.column_types()["label"] == "list of numbers"
    assert len(rows_of(run, "label = 3 and label not in (7, 9)")) == 40
    with pytest.raises(UsageError, match="label holds lists of whole numbers from 1 to 7, and 'dog' is no such value"):
        chosen_rows(run, "label = dog")


def test_ten_thousand_labels_are_bounded(tmp_path):
    lists = [tuple(f"class {n}" for n in range(250 * i, 250 * i + 250)) for i in range(40)]
    run = listed(tmp_path / "run", lists=lists, failures=())
    assert len(run.label_counts()) == 10_000
    assert set(run.label_counts().values()) == {2}
    assert run.moments("L00H00", label="class 9999").count == 2
    sizes = [file.stat().st_size for file in (tmp_path / "run" / "moments").iterdir()]
    assert max(sizes) < 2**20, "labels that few rows have store no moments of their own"


# -- exports -----------------------------------------------------------------------------------------------------------


def test_tables_hold_lists_and_csv_json(run, tmp_path):
    labels = [list(label) for label in run.labels()]
    export(run, tmp_path / "parquet", heads="L00H00")
    table = pq.read_table(tmp_path / "parquet/table.parquet")
    assert table.schema.field("label").type == pa.list_(pa.string())
    assert table["label"].to_pylist() == labels
    export(run, tmp_path / "npy", file_format="npy", heads="L00H00", where="label has cat")
    assert all("cat" in label for label in pq.read_table(tmp_path / "npy/rows.parquet")["label"].to_pylist())
    export(run, tmp_path / "csv", file_format="csv")
    with (tmp_path / "csv/table.csv").open(encoding="utf-8", newline="") as handle:
        assert [json.loads(row["label"]) for row in csv.DictReader(handle)] == labels


def test_frames(run):
    frame = run.to_polars(["key", "label"])
    assert frame["label"].to_list()[1] == []
