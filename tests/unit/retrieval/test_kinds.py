"""Which kind of index is chosen, and how users spell kinds and sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipaudit.errors import UsageError
from clipaudit.retrieval.kinds import build_bytes, choose_kind, number_of_lists, parse_kind, parse_memory, training_rows

GB = 10**9


@pytest.mark.parametrize(
    ("rows", "memory", "name"),
    [(2_000, GB, "flat"), (60_000, GB, "flat"), (120_000, GB, "hnsw"), (120_000, 200_000_000, "ivf-sq"),
     (1_000_000, 4 * GB, "ivf-sq"), (1_000_000, 300_000_000, "ivf-pq"), (10_000_000, 4 * GB, "ivf-sq"),
     (10_000_000, GB, "ivf-pq")],
)  # fmt: skip
def test_auto_goes_by_size_and_memory(rows, memory, name):
    assert choose_kind("auto", rows, 64, memory).name == name


@given(st.integers(1, 10**9), st.sampled_from([16, 32, 64, 80, 512, 1024]), st.integers(10**8, 10**12))
def test_what_is_chosen_fits_and_can_be_trained(rows, dim, memory):
    try:
        kind = choose_kind("auto", rows, dim, memory)
    except UsageError:
        return
    assert build_bytes(kind, rows, dim) <= memory
    assert kind.lists <= rows
    assert kind.code_bytes == 0 or dim % kind.code_bytes == 0
    assert kind.lists <= training_rows(kind, rows, dim, memory) <= rows or not kind.lists


@pytest.mark.parametrize(
    ("text", "factory"),
    [("flat", "Flat"), ("hnsw", "HNSW32"), ("hnsw64", "HNSW64"), ("ivf", "IVF4096,SQfp16"), ("ivf100", "IVF100,SQfp16"),
     ("ivf-sq", "IVF4096,SQfp16"), ("ivf-pq", "IVF4096,PQ32"), ("IVF256-PQ16", "IVF256,PQ16")],
)  # fmt: skip
def test_kinds_by_name(text, factory):
    assert parse_kind(text, 1_000_000, 64).factory == factory


@pytest.mark.parametrize("text", ["ivff", "", "flat2", "hnsw1", "ivf0", "ivf-pq7", "pq", "ivf2000000", "auto,flat"])
def test_kinds_that_are_none_are_named(text):
    with pytest.raises(UsageError, match="--kind") as caught:
        parse_kind(text, 1_000_000, 64)
    assert "\n" not in str(caught.value)


def test_a_kind_that_does_not_fit_says_what_it_needs():
    with pytest.raises(
        UsageError, match=r"as flat takes about 2\d\d\.\d MB|as flat takes about 3\d\d\.\d MB.*--memory"
    ):
        choose_kind("flat", 1_000_000, 64, 10**8)
    with pytest.raises(UsageError, match="as ivf-pq takes about"):
        choose_kind("auto", 10**9, 64, 10**9)


def test_lists_grow_with_the_square_root():
    assert [number_of_lists(rows) for rows in (1, 1000, 10**5, 10**6, 10**9)] == [1, 31, 1024, 4096, 16384]


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 * GB), ("500M", 500_000_000), ("1.5 g", 1_500_000_000), ("2GiB", 2 * 2**30), ("123456", 123456)],
)
def test_sizes(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-1GB", "0", "4XB", "1e9", "ib"])
def test_sizes_that_are_none(text):
    with pytest.raises(UsageError, match="--memory"):
        parse_memory(text)


def test_the_default_is_half_of_what_there_is():
    assert 0 < parse_memory(None) == parse_memory(None, 1.0) // 2 or parse_memory(None) > 0
