"""Moments: the parts merge to the whole, files and rows agree to float64 rounding, storage stays bounded."""

import dataclasses
import errno
import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipaudit.errors import IntegrityError, StorageFull, UsageError
from clipaudit.run import moments_accumulator as module
from clipaudit.run.directory import RunDirectory
from clipaudit.run.moments import Moments, merge, moments_of
from clipaudit.run.moments_accumulator import MomentsAccumulator
from clipaudit.run.moments_file import ShardMoments, load_moments, save_moments
from clipaudit.run.row_moments import moments_by_label, moments_of_rows
from tests.make_runs import SPEC, make_manifest, make_samples, make_shard, make_vectors, write_attempt

TEMPLATE = Moments.empty(SPEC)


def assert_same(a, b, tolerance=1e-11):
    assert (a.heads, a.wide, a.count) == (b.heads, b.wide, b.count)
    for name in ("head_mean", "head_scatter", "wide_mean", "wide_scatter"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * max(np.abs(y).max(initial=0), 1e-12))


def rounded(vectors, rows=slice(None)):
    return {name: values[rows].astype(np.float16) for name, values in vectors.items()}


@pytest.fixture
def run_dir(tmp_path):
    run_dir = RunDirectory(str(tmp_path / "run"))
    run_dir.create_or_resume(make_manifest())
    return run_dir


def test_moments_are_those_of_numpy_on_the_stored_values():
    vectors, _ = make_vectors(SPEC, 100)
    found = moments_of(TEMPLATE, vectors)
    stored = {name: values.astype(np.float64) for name, values in rounded(vectors).items()}
    for head in SPEC.heads:
        np.testing.assert_allclose(found.mean(head), stored[head].mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance(head), np.cov(stored[head].T, bias=True), rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(found.variance(head), stored[head].var(0), rtol=1e-11)
    for column in ("embedding", "mlp_L01"):
        np.testing.assert_allclose(found.mean(column), stored[column].mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.variance(column), stored[column].var(0), rtol=1e-11)


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 60), max_size=6),
    shuffle=st.randoms(use_true_random=False),
    offset=st.sampled_from([0.0, 1.0, 300.0]),
)
def test_parts_in_any_order_merge_to_the_whole(cuts, shuffle, offset):
    vectors = {name: values + np.float32(offset) for name, values in make_vectors(SPEC, 60)[0].items()}
    edges = [0, *sorted(cuts), 60]
    parts = [moments_of(TEMPLATE, rounded(vectors, slice(a, b))) for a, b in itertools.pairwise(edges)]
    shuffle.shuffle(parts)
    assert_same(merge(parts), moments_of(TEMPLATE, vectors), 1e-9)


@settings(max_examples=25, deadline=None)
@given(batches=st.lists(st.integers(0, 200), max_size=12))
def test_batch_sizes_change_nothing_at_all(batches):
    whole, _ = make_vectors(SPEC, sum(batches))
    one, many = MomentsAccumulator(SPEC), MomentsAccumulator(SPEC)
    one.update(whole)
    done = 0
    for rows in batches:
        many.update({name: values[done : done + rows] for name, values in whole.items()})
        done += rows
    a, b = one.finish(RunDirectory("memory://none"), ""), many.finish(RunDirectory("memory://none"), "")
    assert a.total.count == sum(batches)
    np.testing.assert_array_equal(a.total.head_scatter, b.total.head_scatter)
    np.testing.assert_array_equal(a.total.wide_mean, b.total.wide_mean)


def test_merging_needs_parts_of_one_kind():
    with pytest.raises(ValueError, match="nothing to merge"):
        merge([])
    with pytest.raises(ValueError, match="different columns"):
        merge([TEMPLATE, TEMPLATE.select(SPEC.heads[:1], ())])


def test_nothing_is_also_a_number_of_rows():
    assert_same(merge([TEMPLATE, TEMPLATE]), TEMPLATE)
    assert TEMPLATE.covariance("L00H00").tolist() == np.zeros((4, 4)).tolist()


def test_an_unknown_column_is_named_with_what_there_is():
    with pytest.raises(UsageError, match="no covariance of embedding: these moments hold L00H00, L00H01"):
        TEMPLATE.covariance("embedding")
    with pytest.raises(UsageError, match="no moments of L09H09"):
        TEMPLATE.mean("L09H09")


@pytest.mark.parametrize("value", [np.nan, np.inf, 70000.0])
def test_a_row_that_cannot_be_stored_is_refused(run_dir, value):
    vectors, _ = make_vectors(SPEC, 5)
    vectors["mlp_L01"][2, 1] = value
    accumulator = MomentsAccumulator(SPEC)
    accumulator.update(vectors, [0] * 5)
    with pytest.raises(ValueError, match="not finite"):
        accumulator.finish(run_dir, "")


def test_labels_must_be_as_many_as_rows():
    with pytest.raises(ValueError, match="3 labels for 5 rows"):
        MomentsAccumulator(SPEC).update(make_vectors(SPEC, 5)[0], [1, 2, 3])


@pytest.mark.parametrize("policy", ["auto", "all", "none"])
@pytest.mark.parametrize("group", [7, 1000])
def test_files_and_rows_give_the_same_moments(run_dir, policy, group):
    samples = make_samples(90, failures=(0, 1, 50))
    vectors, scalars = make_vectors(SPEC, 87)
    record = write_attempt(
        run_dir,
        make_shard(0),
        SPEC,
        samples,
        vectors,
        scalars,
        label_moments=policy,
        row_group_bytes=group * (SPEC.vector_bytes + 256),
    )
    stored = load_moments(run_dir, record.moments)
    labels = np.array([sample.label for sample in samples if sample.status == "ok"])
    assert stored.counts == {0: 29, 1: 29, 2: 29}
    assert set(stored.labels) == ({0, 1, 2} if policy == "all" else set())
    assert_same(stored.total, moments_of(TEMPLATE, vectors))
    assert_same(stored.total, moments_of_rows(run_dir, record.projections, TEMPLATE))
    from_rows = moments_by_label(run_dir, record.projections, TEMPLATE, [0, 1, 2])
    for label, moments in from_rows.items():
        assert_same(moments, moments_of(TEMPLATE, rounded(vectors, labels == label)))
        if policy == "all":
            assert_same(stored.labels[label], moments)
    assert_same(merge(from_rows.values()), stored.total)


def test_string_labels_keep_their_type(run_dir):
    samples = make_samples(12, label=lambda i: ("1", "höhle")[i % 2])
    spec = dataclasses.replace(SPEC, label_kind="string")
    record = write_attempt(run_dir, make_shard(0), spec, samples, *make_vectors(spec, 12), label_moments="all")
    stored = load_moments(run_dir, record.moments, labels=("1",))
    assert stored.counts == {"1": 6, "höhle": 6}
    assert set(stored.labels) == {"1"}


def test_a_shard_of_one_label_stores_it_once(run_dir):
    samples = make_samples(10, label=lambda _: 4)
    record = write_attempt(run_dir, make_shard(0), SPEC, samples, *make_vectors(SPEC, 10), label_moments="all")
    stored = load_moments(run_dir, record.moments)
    assert stored.labels[4] is stored.total
    assert load_moments(run_dir, record.moments, labels=(5,)).labels == {}


def test_auto_stores_the_labels_that_pay(run_dir, monkeypatch):
    samples = make_samples(60, label=lambda i: 0 if i < 50 else 1)
    cost = module.moments_bytes(SPEC)
    monkeypatch.setattr(module, "LABEL_MOMENTS_SHARE", cost / (50 * SPEC.vector_bytes))
    record = write_attempt(run_dir, make_shard(0), SPEC, samples, *make_vectors(SPEC, 60))
    assert set(load_moments(run_dir, record.moments).labels) == {0}


def test_even_all_labels_have_a_budget_and_the_frequent_ones_come_first(run_dir, monkeypatch):
    monkeypatch.setattr(module, "LABEL_MOMENTS_BYTES", 2 * module.moments_bytes(SPEC))
    samples = make_samples(60, label=lambda i: min(i // 10, 3))
    record = write_attempt(run_dir, make_shard(0), SPEC, samples, *make_vectors(SPEC, 60), label_moments="all")
    stored = load_moments(run_dir, record.moments)
    assert stored.counts == {0: 10, 1: 10, 2: 10, 3: 30}
    assert len(stored.labels) == 2
    assert 3 in stored.labels


def test_an_empty_shard_has_moments_too(run_dir):
    record = write_attempt(run_dir, make_shard(0), SPEC, make_samples(2, (0, 1)), {}, {}, label_moments="all")
    stored = load_moments(run_dir, record.moments)
    assert_same(stored.total, TEMPLATE)
    assert stored.counts == {}


@pytest.mark.parametrize("keep", [0, 4, 60, 400, -1])
def test_a_truncated_moments_file_is_damaged(run_dir, keep):
    record = write_attempt(run_dir, make_shard(0), SPEC, make_samples(9), *make_vectors(SPEC, 9))
    run_dir.storage.replace(record.moments, run_dir.storage.read(record.moments)[:keep])
    with pytest.raises(IntegrityError, match=r"moments/000000-\w+\.safetensors is damaged"):
        load_moments(run_dir, record.moments)


def test_a_missing_moments_file_is_named(run_dir):
    with pytest.raises(IntegrityError, match=r"moments/000000-a\.safetensors is not there"):
        load_moments(run_dir, "moments/000000-a.safetensors")


def test_a_full_disk_leaves_no_moments_file(run_dir, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageFull, match="no space left"):
        save_moments(run_dir, "moments/000000-a.safetensors", ShardMoments(total=TEMPLATE))
    assert run_dir.storage.names("moments") == []
