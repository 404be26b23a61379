"""Braces in shard patterns: what they stand for, in which order, and how many, before any of them is made."""

import pytest
from braceexpand import braceexpand
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clipaudit.errors import UsageError
from clipaudit.shards.braces import balanced, count_braces, expand_braces


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("a-{8..11}.tar", ["a-8.tar", "a-9.tar", "a-10.tar", "a-11.tar"]),
        ("a-{0..10..5}", ["a-0", "a-5", "a-10"]),
        ("a-{00..10..5}", ["a-00", "a-05", "a-10"]),
        ("a-{3..1}", ["a-3", "a-2", "a-1"]),
        ("a-{-1..1}", ["a--1", "a-0", "a-1"]),
        ("a-{0..6..3}", ["a-0", "a-3", "a-6"]),
        ("{a..c}", ["a", "b", "c"]),
        ("{c..a..2}", ["c", "a"]),
        ("{train,val}/{0..1}.tar", ["train/0.tar", "train/1.tar", "val/0.tar", "val/1.tar"]),
        ("a{,-old}.tar", ["a.tar", "a-old.tar"]),
        ("{a,a}", ["a"]),
        ("{a,b{1..2}}", ["a", "b1", "b2"]),
        ("{a,{b,c}}", ["a", "b", "c"]),
        ("{{a,b},c}", ["a", "b", "c"]),
        ("{{a,1}..3}", ["{a..3}", "{1..3}"]),  # as in bash: a range within braces is not built from other braces
        ("{a}", ["{a}"]),
        ("{}", ["{}"]),
        ("a\\{b,c}", ["a\\b", "a\\c"]),
        ("{", ["{"]),
        ("{a", ["{a"]),
        ("a-{0..1", ["a-{0..1"]),
    ],
)
def test_braces(pattern, texts):
    assert expand_braces(pattern) == texts


@pytest.mark.parametrize(
    "pattern",
    ["{0..99999999}", "{1..1000000000}", "{0..9999}{0..9999}", "{{0..9},a}{0..99999}", "{0..99999999999999999999}"],
)
def test_braces_that_name_too_many_shards(pattern):
    with pytest.raises(UsageError, match=r"^the pattern '.*' names more than 1,000,000 shards, the limit of one job$"):
        expand_braces(pattern)


def test_a_million_shards_is_not_too_many():
    assert count_braces("{0..999}/{0..999}.tar") == 1_000_000
    assert len(expand_braces("{0..999}/{0..999}.tar")) == 1_000_000


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("{" * 60 + "}" * 60, "nests braces more than 50 deep"),
        (f"{{0..{'9' * 101}}}", "a number of more than 100 digits"),
    ],
)
def test_braces_that_only_a_mistake_can_mean(pattern, sentence):
    with pytest.raises(UsageError, match=f"^the pattern '.*' (has )?{sentence}"):
        expand_braces(pattern)


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="{}{},,..0123-aczZ\\\n", max_size=24))
@example("}{a,b}{")
@example("{1..3\n}")
@example("{A..A}{c..A..2}")
def test_the_count_is_that_of_the_expansion(pattern):
    count = count_braces(pattern)
    if not balanced(pattern):
        assert count == 1
    elif count <= 10_000:
        assert count == len(list(braceexpand(pattern, escape=False)))
