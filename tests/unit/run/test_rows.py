"""Which rows of a run: expressions, values, moments over them against the rows themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clipaudit.errors import UsageError
from clipaudit.run.moments import Moments
from clipaudit.run.reader import Run
from clipaudit.run.rows import (
    ALL,
    Rows,
    chosen_rows,
    group_column,
    moments_over,
    require_rows,
    row_filter,
    stream_rows,
)
from clipaudit.schema import TableSpec
from tests.make_runs import SPEC, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return Run(make_run(str(tmp_path_factory.mktemp("rows") / "run")))


def test_expressions(run):
    assert chosen_rows(run, []) == ALL
    assert chosen_rows(run, ["place=water", "label = 2"]).where == ("attributes.place = water", "label = 2")
    assert chosen_rows(run, ["attributes.place=a=b"]).where == ("attributes.place = 'a=b'",)
    assert row_filter(run, chosen_rows(run, "place=a=b")).equalities == {"attributes.place": "a=b"}
    assert chosen_rows(run, ["place=water"]).described == ", attributes.place = water"
    assert ALL.described == ""
    assert group_column(run, "place") == group_column(run, "attributes.place") == "attributes.place"


@pytest.mark.parametrize(
    ("expressions", "words"),
    [
        (["place"], "a comparison, such as = water or in .*, is expected"),
        (["=water"], "a column is expected"),
        (["place="], "a value is expected"),
        (["colour=red"], r"column 'colour' is not in the run at .*: there is .*label, .*attributes\.place"),
        (["place=a", "attributes.place=b"], r"attributes\.place is asked for twice: a and b"),
        (["label=duck"], "label holds whole numbers from 0 to 2, and 'duck' is no such value"),
    ],
)
def test_wrong_expressions(run, expressions, words):
    with pytest.raises(UsageError, match=words):
        chosen_rows(run, expressions)


@pytest.mark.parametrize(
    "rows", [ALL, Rows(shards=(1,)), Rows(where=("label = 2",)), Rows(where=("attributes.place = water",)),
             Rows(shards=(0,), where=("attributes.place = land", "label = 1"))]
)  # fmt: skip
def test_moments_over_rows_are_those_of_the_rows(run, rows):
    found = moments_over(run, rows)
    batches = list(stream_rows(run, list(SPEC.vectors), (), rows))
    assert found.count == sum(map(len, batches)) > 0
    for head in SPEC.heads:
        values = np.concatenate([batch.vectors[head] for batch in batches]).astype(np.float64)
        assert np.allclose(found.mean(head), values.mean(axis=0), atol=1e-12)
        assert np.allclose(found.covariance(head), np.cov(values.T, bias=True), atol=1e-12)
    embedding = np.concatenate([batch.vectors["embedding"] for batch in batches]).astype(np.float64)
    assert np.allclose(found.variance("embedding"), embedding.var(axis=0), atol=1e-12)


def test_no_rows_names_what_there_is(run):
    require_rows(run, ALL, 1)
    rows = Rows(where=("attributes.place = moon",))
    assert moments_over(run, rows).count == 0
    with pytest.raises(UsageError, match=r"no row of the run at .* has attributes\.place = moon: there is .*land.*"):
        require_rows(run, rows, 0)
    with pytest.raises(UsageError, match="label = 9: there is 2, 0, 1"):
        require_rows(run, Rows(where=("label = 9",)), 0)
    with pytest.raises(UsageError, match=r"has no rows, attributes\.place = land, label = 0"):
        require_rows(run, Rows(where=("attributes.place = land", "label = 0")), 0)


def test_a_run_without_labels_or_attributes(tmp_path):
    spec = TableSpec(heads=("L00H00",), head_dim=2, embed_dim=3)
    run = Run(make_run(str(tmp_path / "run"), spec, shards=1, label=lambda _: None))
    with pytest.raises(UsageError, match="'label' is not in the run at"):
        chosen_rows(run, ["label=1"])
    assert moments_over(run).count == len(run)
    assert moments_over(run, Rows(shards=())).count == Moments.empty(spec).count == 0


@pytest.mark.parametrize(
    ("where", "passes"),
    [
        ("width < 410.5", lambda row: row["width"] < 410.5),
        ("label != 1 and not place = water", lambda row: row["label"] != 1 and row["attributes"]["place"] == "land"),
        ("caption is null or key like '%7'", lambda row: row["caption"] is None or row["key"].endswith("7")),
        (
            ["label in (0, 2)", "place is null"],
            lambda row: row["label"] in (0, 2) and row["attributes"]["place"] is None,
        ),
    ],
)
def test_any_filter_chooses_rows(run, where, passes):
    rows = chosen_rows(run, where)
    keys = [key for batch in stream_rows(run, (), ["key"], rows) for key in batch.columns["key"]]
    table = run.table().to_pylist()
    expected = [row["key"] for row in table if row["status"] == "ok" and passes(row)]
    assert keys == expected != []
    assert moments_over(run, rows).count == len(expected)


def test_attributes_that_hold_numbers_are_compared_as_numbers(tmp_path):
    spec = replace(SPEC, attributes=("light",))
    lights = {"failures": (), "attributes": lambda i: {"light": str(5 * i)}}
    run = Run(make_run(str(tmp_path / "run"), spec, shards=1, rows=40, **lights))
    lights = [light for batch in stream_rows(run, (), ["attributes.light"], chosen_rows(run, "light < 9"))
              for light in batch.columns["attributes.light"]]  # fmt: skip
    assert [float(light) for light in lights] == [0.0, 5.0]
    with pytest.raises(UsageError, match="light holds numbers from 0 to 195, and 'dim' is no such value"):
        chosen_rows(run, "light = dim")
    with pytest.raises(UsageError, match=r"has attributes\.light > 1000000: attributes\.light is 0 to 195"):
        require_rows(run, chosen_rows(run, "light > 1000000"), 0)
