"""The filter language: against the same condition in Python, and against what must not get through."""

import contextlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipaudit.errors import UsageError
from clipaudit.retrieval.filters import mask

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


def rows(text):
    return np.flatnonzero(mask(text, TABLE)).tolist()


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
        ("width = 99999999999", "cannot be used"),
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
