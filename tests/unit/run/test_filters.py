"""The filter language: against the same condition in Python, and against what must not get through."""

import contextlib
import json
import operator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipaudit.errors import UsageError
from clipaudit.run.column_types import text_type
from clipaudit.run.filter_columns import table_columns
from clipaudit.run.filters import equal_to, is_filter, parse_filter, why_empty

TABLE = pa.table(
    {
        "key": ["a/1", "b", "it's", "d", "e%"],
        "label": pa.array([1, 2, None, 3, -4], pa.int64()),
        "width": pa.array([100, 200, 300, None, 500], pa.int32()),
        "attributes": [
            {"place": "water", "split": "train"},
            {"place": "land", "split": "test"},
            {"place": None, "split": "test"},
            {"place": "Water", "split": "train"},
            {"place": "sea side", "split": None},
        ],
        "phash": pa.array([1, 2, 3, 4, 5], pa.int64()),
    }
)


def mask(where, table):
    return parse_filter(where, table_columns(table)).mask(table)


def rows(where, table=TABLE):
    return np.flatnonzero(mask(where, table)).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("label = 2", [1]),
        ("label == 2 or label=3", [1, 3]),
        ("label != 2", [0, 3, 4]),
        ("not label = 2", [0, 3, 4]),
        ("label <> 2 and width >= 200", [4]),
        ("label in (1, 3, 77)", [0, 3]),
        ("label not in (1, 3)", [1, 4]),
        ("label is null", [2]),
        ("label is not null and label < 0", [4]),
        ("place = water", [0]),
        ("place = 'sea side'", [4]),
        ('attributes.place = "land"', [1]),
        ("`attributes.place` like '%ater'", [0, 3]),
        ("place not like 'w%'", [1, 3, 4]),
        ("key = 'it''s'", [2]),
        ("key like 'a/_'", [0]),
        ("split = train and (place = water or place = 'Water')", [0, 3]),
        ("split = train and place = land or label = -4", [4]),
        ("NOT (label = 1 OR label = 2) AND NOT split = 'test'", [3]),
        ("not not label = 1", [0]),
    ],
)
def test_what_a_filter_lets_through(text, expected):
    assert rows(text) == expected


@given(st.recursive(
    st.one_of(
        st.tuples(st.sampled_from(["label", "width"]), st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
                  st.integers(-5, 510)),
        st.tuples(st.sampled_from(["place", "split", "key"]), st.sampled_from(["=", "!="]),
                  st.sampled_from(["water", "land", "train", "b", "it's"])),
    ),
    lambda inner: st.tuples(st.sampled_from(["and", "or"]), inner, inner),
    max_leaves=12,
))  # fmt: skip
def test_any_condition_equals_the_same_in_python(tree):
    assert rows(spelled(tree)) == [i for i, row in enumerate(TABLE.to_pylist()) if holds(tree, row) is True]


def spelled(tree):
    if tree[0] in ("and", "or"):
        return f"({spelled(tree[1])} {tree[0]} {spelled(tree[2])})"
    name, sign, value = tree
    return f"{name} {sign} " + (str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'")


def holds(tree, row):
    """SQL's logic: None is unknown."""
    if tree[0] in ("and", "or"):
        one, two = holds(tree[1], row), holds(tree[2], row)
        decisive = tree[0] == "or"
        if decisive in (one, two):
            return decisive
        return None if None in (one, two) else not decisive
    name, sign, value = tree
    found = row["attributes"][name] if name in ("place", "split") else row[name]
    if found is None:
        return None
    return {"=": found == value, "!=": found != value}[sign] if sign in ("=", "!=") else {
        "<": found < value, "<=": found <= value, ">": found > value, ">=": found >= value}[sign]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("lable = 3", "did you mean label?"),
        ("species = 3", "there is key, label, width"),
        ("label", "before its end"),
        ("label =", "a value is expected before its end"),
        ("label = 3 4", "before '4'"),
        ("label = 'three'", "whole numbers"),
        ("label = 1.5", "whole numbers"),
        ("label like '3'", "like compares texts"),
        ("(label = 3", "')' is expected"),
        ("label in ()", "a value"),
        ("label in 3", "'('"),
        ("label = 3 and", "a column"),
        ("label ~ 3", "not understood at"),
        ("key = 'open", "not understood at"),
        ("width = 99999999999", "width holds whole numbers from 100 to 500"),
        ("label = 99999999999999999999", "whole numbers"),
        ("attributes = 3", "not in the run"),
        ("phash = 3", "not in the run"),
        ("label = 1; drop table x", "not understood at"),
        ("__import__('os')", "not in the run"),
        ("label.__class__ = 1", "not in the run"),
        ("__import__('os').system('x')", "not understood"),
        ("read_csv('/etc/passwd') = 1", "not in the run"),
        ("(" * 50 + "label = 1" + ")" * 50, "nested"),
        ("label = 1 or " * 300 + "label = 1", "characters"),
        ("= 3", "a column"),
        ("and", "a column"),
        ("place = null", "write `is null`"),
        ("place < 9", "place holds texts such as water, land, Water, sea side"),
        ("LABEL = 3", "did you mean label?"),
        ("place = water oder land, see", "not understood"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(text, words):
    with pytest.raises(UsageError) as caught:
        mask(text, TABLE)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(text):
    with contextlib.suppress(UsageError):
        assert len(mask(text, TABLE)) == 5


# -- typed columns -----------------------------------------------------------------------------------------------------

OLD = pa.table(
    {
        "key": ["001", "2", "3", "4", "5"],
        "label": ["cat", "dog", "dog", None, "9"],
        "attributes": [
            {"light": "5", "score": "0.5", "dark": "true", "id": "12345678901234567890", "code": "007", "in": "a=b"},
            {"light": "100", "score": "-1e3", "dark": "false", "id": "12345678901234567891", "code": "10", "in": "or"},
            {"light": "9", "score": "3", "dark": None, "id": None, "code": "9", "in": "rock and roll"},
            {"light": None, "score": None, "dark": "true", "id": None, "code": None, "in": "Mary's, old"},
            {"light": "-20", "score": "7.25", "dark": "false", "id": None, "code": "1", "in": "2024-01-01"},
        ],
    }
)
"""As runs of version 0.1 store them: every attribute is text."""


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("light < 9", [0, 4]),
        ("light <= 9.0", [0, 2, 4]),
        ("light > 8.5 and light < 1e2", [2]),
        ("light = 5", [0]),
        ("light = '5'", [0]),
        ("light in (5, 9.0, 77)", [0, 2]),
        ("light not in (5)", [1, 2, 4]),
        ("light like '1%'", [1]),
        ("light is null", [3]),
        ("score >= .5", [0, 2, 4]),
        ("score = -1000", [1]),
        ("light > 99999999999999999999", []),
        ("dark = True", [0, 3]),
        ("dark = TRUE or dark != true", [0, 1, 3, 4]),
        ("dark in (false)", [1, 4]),
        ("not dark = 'False'", [0, 3]),
        ("id = 12345678901234567890", [0]),
        ("code = 007", [0]),
        ("code = 7", []),
        ("label = 9", [4]),
        ("`in` = or", [1]),
        ("in = or", None),
        ("`in` in (or, a)", [1]),
        ("`in`=a=b", [0]),
        ("`in` = 'rock and roll'", [2]),
        ("`in`=2024-01-01 and light < 0", [4]),
        ("key = 001", [0]),
    ],
)
def test_old_columns_of_text_are_typed_by_their_values(where, expected):
    if expected is None:
        with pytest.raises(UsageError, match="a column is expected"):
            rows(where, OLD)
    else:
        assert rows(where, OLD) == expected


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("light = bright", "light holds numbers from -20 to 100, and 'bright' is no such value"),
        ("light < nan", "light holds numbers"),
        ("light < 1_0", "light holds numbers"),
        ("dark = 1", "dark holds true and false, and '1'"),
        ("dark < true", "dark holds true and false, which < cannot compare"),
        ("id < 9", "holds texts such as 12345678901234567890"),
        ("code < 9", "'9' is no such value; as a text it is written '9'"),
        ("lihgt < 9", "did you mean light?"),
        ("`in`=rock and roll", "column 'roll'"),
    ],
)
def test_values_of_another_kind_are_refused_with_what_there_is(where, words):
    with pytest.raises(UsageError) as caught:
        rows(where, OLD)
    assert words in str(caught.value)


def test_typed_columns():
    table = pa.table(
        {"attributes": [{"light": 5, "dark": True, "score": 0.25}, {"light": 90, "dark": None, "score": 2.0}]}
    )
    assert rows("light < 9.5", table) == rows("dark = TRUE", table) == rows("score = .25", table) == [0]
    with pytest.raises(UsageError, match="whole numbers from 5 to 90"):
        rows("light = 5.5", table)


def test_several_filters_must_all_hold():
    assert rows(["split = 'train'", "width >= 100", "label < 0"]) == [4] or rows(["split = test", "label = 2"]) == [1]
    assert rows(("split=test", "label=2")) == rows("split = test and label = 2") == [1]
    assert rows([]) == [0, 1, 2, 3, 4]
    with pytest.raises(UsageError, match=r"attributes\.place is asked for twice: water and land"):
        rows(["place = water", "attributes.place = land"])
    assert rows(["place = water", "attributes.place = 'water'"]) == [0]


def test_equal_filters_have_equal_texts():
    columns = table_columns(TABLE)
    assert parse_filter(["place=water", "label = 2"], columns).texts == ("attributes.place = water", "label = 2")
    assert parse_filter("place=sea side", columns).texts == ("attributes.place = 'sea side'",)
    assert parse_filter("label=1 and (width > 3 or place in ('it''s', b))", columns).texts == (
        "label = 1", "(width > 3 or attributes.place in ('it''s', b))",
    )  # fmt: skip
    assert parse_filter("label = 1 and split = test or width < 3", columns).equalities == {}
    assert parse_filter("label = 1 and split = test", columns).equalities == {"label": 1, "attributes.split": "test"}


@given(st.text(max_size=20))
def test_any_value_can_be_asked_for(value):
    table = pa.table({"place": ["other", value]})
    expected = [n for n, place in enumerate(["other", value]) if place == value]
    assert rows(equal_to("place", value), table) == expected
    texts = parse_filter(equal_to("place", value), table_columns(table)).texts
    assert parse_filter(texts, table_columns(table)).equalities == {"place": value}


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("place = moon", "attributes.place = moon: there is water, land, Water, sea side"),
        ("place = WATERS", "did you mean Water?"),
        ("split = test and label = 9", "label = 9: there is 1, 2, 3, -4"),
        ("split = test and label = 1", None),
        ("width > 500", "width > 500: there is 100, 200, 300, 500"),
    ],
)
def test_what_there_is_where_no_row_passes(where, words):
    why = why_empty(parse_filter(where, table_columns(TABLE)), TABLE)
    assert why is None if words is None else words in why


def test_many_numbers_are_named_by_their_ends():
    table = pa.table({"width": list(range(50))})
    assert why_empty(parse_filter("width = 77", table_columns(table)), table) == "width = 77: width is 0 to 49"


def test_filters_are_told_from_names_of_runs():
    assert all(map(is_filter, ["split=test", "light < 9", "label in (1, 2)", "place like 'a%'"]))
    assert not any(map(is_filter, ["runs/other", "balanced", "s3://bucket/in/like"]))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], pa.string()),
        (["1", "-2", "0"], pa.int64()),
        (["1", "-2.5", "1e-3"], pa.float64()),
        (["1", "water"], pa.string()),
        (["nan", "1"], pa.string()),
        (["007", "1"], pa.string()),
        (["9" * 20], pa.string()),
        (["true", "false"], pa.bool_()),
        (["true", "unknown"], pa.string()),
    ],
)
def test_types_of_texts(values, expected):
    assert text_type(pa.array(values, pa.string())) == expected


NUMBERS = st.one_of(st.integers(-30, 30), st.floats(-30, 30, allow_nan=False).map(lambda x: round(x, 2)))
LEAVES = st.one_of(
    st.tuples(st.just("light"), st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), NUMBERS),
    st.tuples(st.just("light"), st.sampled_from(["in", "not in"]), st.lists(NUMBERS, min_size=1, max_size=4)),
    st.tuples(st.just("dark"), st.sampled_from(["=", "!="]), st.booleans()),
    st.tuples(st.just("place"), st.sampled_from(["=", "!=", "<", ">="]), st.sampled_from(["water", "it's", "Ä b", ""])),
    st.tuples(st.sampled_from(["light", "dark", "place"]), st.sampled_from(["is null", "is not null"]), st.none()),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.tuples(st.sampled_from(["and", "or"]), inner, inner), st.tuples(st.just("not"), inner)),
    max_leaves=10,
)
IMAGES = st.lists(
    st.fixed_dictionaries({
        "light": st.none() | NUMBERS,
        "dark": st.none() | st.booleans(),
        "place": st.none() | st.sampled_from(["water", "it's", "Ä b", "land"]),
    }),
    min_size=1,
    max_size=8,
)  # fmt: skip


@given(TREES, IMAGES, st.booleans())
def test_typed_conditions_equal_the_same_in_python(tree, images, as_text):
    images = [*images, {"light": 0.5, "dark": True, "place": "sea"}]  # so that every column has its type
    spell = json.dumps if as_text else lambda value: value
    attributes = [
        {"light": image["light"] if image["light"] is None else spell(float(image["light"])),
         "dark": image["dark"] if image["dark"] is None else spell(image["dark"]), "place": image["place"]}
        for image in images
    ]  # fmt: skip
    table = pa.table({"attributes": attributes})
    text = written(tree)
    expected = [n for n, image in enumerate(images) if python(tree, image) is True]
    assert rows(text, table) == expected
    canonical = parse_filter(text, table_columns(table)).texts
    assert rows(" and ".join(canonical), table) == expected
    assert parse_filter(" and ".join(canonical), table_columns(table)).texts == canonical


def written(tree):
    if tree[0] == "not":
        return f"not ({written(tree[1])})"
    if tree[0] in ("and", "or"):
        return f"({written(tree[1])} {tree[0]} {written(tree[2])})"
    name, sign, value = tree
    if value is None:
        return f"{name} {sign}"
    if isinstance(value, list):
        return f"{name} {sign} ({', '.join(map(repr, value))})"
    return f"{name} {sign} " + ("'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value))


def python(tree, image):
    """True, False, or None for unknown, as in SQL."""
    if tree[0] == "not":
        inner = python(tree[1], image)
        return None if inner is None else not inner
    if tree[0] in ("and", "or"):
        first, second = python(tree[1], image), python(tree[2], image)
        decisive = tree[0] == "or"
        if decisive in (first, second):
            return decisive
        return None if None in (first, second) else not decisive
    name, sign, value = tree
    stored = image[name]
    if sign == "is null":
        return stored is None
    if sign == "is not null":
        return stored is not None
    if stored is None:
        return None
    if isinstance(value, list):
        return (stored in value) is (sign == "in")
    return {"=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
            ">=": operator.ge}[sign](stored, value)  # fmt: skip
