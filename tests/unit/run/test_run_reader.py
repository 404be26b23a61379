"""The reader: chosen columns of committed shards, nothing else; the basis; what a user may ask wrongly."""

import numpy as np
import pyarrow as pa
import pytest

from clipaudit.errors import IntegrityError, RunMismatch, RunNotFound, UsageError
from clipaudit.run.basis import write_basis
from clipaudit.run.directory import RunDirectory
from clipaudit.run.moments import Moments, moments_of
from clipaudit.run.projections import vectors_of
from clipaudit.run.reader import Run
from tests.make_runs import (
    SPEC,
    make_basis,
    make_manifest,
    make_run,
    make_samples,
    make_shard,
    make_vectors,
    write_attempt,
)

ROWS, FAILURES = 50, (0, 7, 49)
GOOD = [n for n in range(ROWS) if n not in FAILURES]


@pytest.fixture(scope="module", params=["local", "memory"])
def url(request, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("run") / "run")
    url = path if request.param == "local" else f"memory://{path}"
    make_run(url, row_group_bytes=20 * (SPEC.vector_bytes + 256))
    return url


@pytest.fixture
def run(url):
    return Run(url)


def expected(name, dtype=np.float16):
    return (
        np.concatenate([make_vectors(SPEC, len(GOOD), seed)[0][name] for seed in (0, 1)])
        .astype(np.float16)
        .astype(dtype)
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_head_comes_with_its_columns_and_identities(run, dtype):
    found = run.heads("L01H00", columns=("key", "label", "attributes.place", "width", "caption"), dtype=dtype)
    assert len(found) == 94
    assert found.values.dtype == dtype
    np.testing.assert_array_equal(found.values, expected("L01H00", dtype))
    np.testing.assert_array_equal(found.shard_id, np.repeat([0, 1], len(GOOD)))
    np.testing.assert_array_equal(found.index, GOOD * 2)
    samples = make_samples(ROWS, FAILURES)
    np.testing.assert_array_equal(found["key"], [samples[n].key for n in GOOD] * 2)
    np.testing.assert_array_equal(found["label"], [samples[n].label for n in GOOD] * 2)
    np.testing.assert_array_equal(found["width"], [samples[n].width for n in GOOD] * 2)
    assert found["attributes.place"].tolist() == [samples[n].attributes["place"] for n in GOOD] * 2
    assert found["caption"].tolist() == [samples[n].caption for n in GOOD] * 2


def test_defaults_are_key_and_label(run):
    assert set(run.heads("L00H00").columns) == {"key", "label"}
    assert run.heads("L00H00", columns=()).columns == {}


def test_embedding_and_components_are_vectors_too(run):
    np.testing.assert_array_equal(run.embedding().values, expected("embedding"))
    np.testing.assert_array_equal(run.vectors("mlp_L01").values, expected("mlp_L01"))
    np.testing.assert_array_equal(run.labels(), run.embedding()["label"])
    assert run.head_labels == SPEC.heads
    assert len(run) == 94


def test_some_shards_alone(run):
    found = run.heads("L00H01", shards=[1])
    np.testing.assert_array_equal(found.values, make_vectors(SPEC, len(GOOD), 1)[0]["L00H01"].astype(np.float16))
    assert set(found.shard_id) == {1}
    assert run.table(["key"], shards=[0]).num_rows == ROWS
    assert run.moments(shards=[1]).count == len(GOOD)


@pytest.mark.parametrize("rows", [1, 13, 4096])
def test_batches_are_the_table_in_pieces(run, rows):
    table = run.table()
    assert table.num_rows == 2 * ROWS
    assert "embedding" not in table.column_names
    assert table["status"].to_pylist().count("undecodable") == 6
    batches = list(run.batches(["key", "L01H01"], rows=rows))
    assert max(len(batch) for batch in batches) <= rows
    assert [key for batch in batches for key in batch.column("key").to_pylist()] == table["key"].to_pylist()
    parts = [vectors_of(batch.column("L01H01")) for batch in batches]
    np.testing.assert_array_equal(np.concatenate([values[valid] for values, valid in parts]), expected("L01H01"))


def test_the_order_of_columns_is_the_one_asked_for(run):
    assert run.table(["label", "key"]).column_names == ["label", "key"]


def test_moments_of_all_rows_of_a_label_and_of_some_heads(run):
    values = {name: expected(name) for name in SPEC.vectors}
    template = Moments.empty(SPEC)
    whole = moments_of(template, values)
    np.testing.assert_allclose(run.moments().covariance("L00H00"), whole.covariance("L00H00"), rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(run.moments().variance("embedding"), whole.variance("embedding"), rtol=1e-9)
    labels = run.labels()
    for label in (0, 1, 2):
        found = run.moments(heads=("L01H01", "L00H00"), label=label)
        assert found.heads == ("L01H01", "L00H00")
        assert found.count == (labels == label).sum() == run.label_counts()[label]
        part = expected("L01H01", np.float64)[labels == label]
        np.testing.assert_allclose(found.mean("L01H01"), part.mean(0), rtol=1e-10)
        np.testing.assert_allclose(found.covariance("L01H01"), np.cov(part.T, bias=True), rtol=1e-9, atol=1e-14)
    assert run.moments(label=17).count == 0


@pytest.mark.parametrize("policy", ["auto", "all", "none"])
def test_label_moments_are_the_same_whatever_was_stored(tmp_path, policy):
    run = Run(make_run(str(tmp_path / "run"), label_moments=policy))
    reference = expected("L00H01", np.float64)[run.labels() == 2]
    np.testing.assert_allclose(run.moments(label=2).mean("L00H01"), reference.mean(0), rtol=1e-11)


def test_what_is_not_there_is_named(run):
    with pytest.raises(UsageError, match=r"stores no head 'L09H09': it stores L00H00, L00H01, L01H00, L01H01"):
        run.heads("L09H09")
    with pytest.raises(UsageError, match="stores no head 'embedding'"):
        run.heads("embedding")
    with pytest.raises(UsageError, match="no column 'colour': it has shard_id, index, key"):
        run.heads("L00H00", columns=("colour",))
    with pytest.raises(UsageError, match=r"no column 'attributes\.colour'"):
        run.heads("L00H00", columns=("attributes.colour",))
    with pytest.raises(UsageError, match="shard 9 is not committed"):
        run.heads("L00H00", shards=[9])
    with pytest.raises(UsageError, match="stores no head 'x'"):
        run.moments(heads=["x"])


def test_no_run_is_not_a_run(tmp_path):
    with pytest.raises(RunNotFound, match="there is no run at"):
        Run(tmp_path)


def test_an_empty_run_gives_empty_arrays_of_the_right_shape(tmp_path):
    run_dir = RunDirectory(str(tmp_path / "run"))
    run_dir.create_or_resume(make_manifest())
    run = Run(run_dir)
    found = run.heads("L00H00", columns=("key", "label", "attributes.place", "width"))
    assert found.values.shape == (0, 4)
    assert run.embedding(dtype=np.float32).values.shape == (0, 8)
    assert found.shard_id.dtype == found.index.dtype == np.int32
    assert all(column.shape == (0,) for column in found.columns.values())
    assert run.labels().shape == (0,)
    assert run.table().num_rows == 0
    assert run.moments().count == 0
    assert run.label_counts() == {}
    assert run.coverage().samples_share == 1.0


def test_only_committed_shards_count(tmp_path):
    run_dir = make_run(str(tmp_path / "run"), shards=1)
    samples = make_samples(5)
    record = write_attempt(run_dir, make_shard(1), SPEC, samples, *make_vectors(SPEC, 5))
    assert Run(run_dir).table().num_rows == ROWS
    run_dir.commit(record)
    assert Run(run_dir).table().num_rows == ROWS + 5


def test_a_run_without_labels(tmp_path):
    import dataclasses

    spec = dataclasses.replace(SPEC, label_kind=None)
    run = Run(make_run(str(tmp_path / "run"), spec))
    assert set(run.heads("L00H00").columns) == {"key"}
    assert run.label_counts() == {}
    for ask in (run.labels, lambda: run.moments(label=1)):
        with pytest.raises(UsageError, match="no column 'label'"):
            ask()


def test_a_file_with_other_rows_than_its_commit_is_refused(tmp_path):
    run_dir = make_run(str(tmp_path / "run"))
    records = run_dir.committed()
    one, two = (run_dir.storage.full(records[n].projections) for n in (0, 1))
    run_dir.storage.remove(records[1].projections)
    with pytest.raises(IntegrityError, match="is not there"):
        Run(run_dir).heads("L00H00")
    other = make_run(str(tmp_path / "other"), rows=20, shards=1)
    run_dir.storage.replace(records[1].projections, other.storage.read(other.committed()[0].projections))
    with pytest.raises(IntegrityError, match=r"has 18 ok rows of 20, and its commit record says 47 of 50"):
        Run(run_dir).heads("L00H00")
    assert one != two


def test_the_basis_is_written_once_and_read_by_head(run):
    tensors = make_basis(SPEC)
    basis = run.basis()
    assert basis.heads == SPEC.heads
    assert basis.metadata == {"tower": "test"}
    np.testing.assert_array_equal(basis.Q("L01H01"), tensors["Q"][0, 3])
    np.testing.assert_array_equal(basis.T("L00H00"), tensors["T"][0, 0])
    np.testing.assert_array_equal(basis.tensors["norm_bias"], tensors["norm_bias"])
    assert not write_basis(run.directory, {n: a + np.float32(1e-6) for n, a in tensors.items()}, {})
    with pytest.raises(RunMismatch, match="differs from this worker's basis"):
        write_basis(run.directory, make_basis(SPEC, seed=1), {})
    with pytest.raises(RunMismatch, match="another tower"):
        write_basis(run.directory, {"Q": tensors["Q"]}, {})
    with pytest.raises(UsageError, match="stores no head 'x'"):
        basis.Q("x")


def test_a_basis_that_is_missing_or_damaged_is_named(tmp_path):
    run_dir = RunDirectory(str(tmp_path / "run"))
    run_dir.create_or_resume(make_manifest())
    with pytest.raises(RunNotFound, match=r"has no basis\.safetensors yet"):
        Run(run_dir).basis()
    run_dir.storage.create("basis.safetensors", b"12345678{")
    with pytest.raises(IntegrityError, match=r"basis\.safetensors is damaged"):
        Run(run_dir).basis()


def test_going_through_a_run_holds_one_row_group_at_a_time(tmp_path):
    group_rows, groups = 500, 40
    run = Run(
        make_run(
            str(tmp_path / "run"),
            shards=1,
            rows=group_rows * groups,
            failures=(),
            row_group_bytes=group_rows * (SPEC.vector_bytes + 256),
        )
    )
    before = pa.total_allocated_bytes()
    most = 0
    for batch in run.batches(list(SPEC.vectors), rows=group_rows):
        most = max(most, pa.total_allocated_bytes() - before)
        assert len(batch) == group_rows
    assert most < 5 * group_rows * SPEC.vector_bytes < groups * group_rows * SPEC.vector_bytes / 5
