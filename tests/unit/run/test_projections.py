"""The table of one shard: what is written is read, failures anywhere, nothing half written counts."""

import gc
import hashlib
import weakref
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipaudit.errors import IntegrityError, StorageFull
from clipaudit.run.directory import RunDirectory, new_attempt
from clipaudit.run.projections import ProjectionWriter, open_table, vectors_of, verify
from clipaudit.schema import NOT_FINITE, OK, TableSpec, arrow_schema
from tests.make_runs import SPEC, make_manifest, make_samples, make_shard, make_vectors

ROW_BYTES = SPEC.vector_bytes + 256


@pytest.fixture
def run_dir(tmp_path):
    run_dir = RunDirectory(str(tmp_path / "run"))
    run_dir.create_or_resume(make_manifest())
    return run_dir


def write(run_dir, samples, vectors, scalars, batch=16, **options):
    writer = ProjectionWriter(run_dir, make_shard(3), new_attempt(), SPEC, {"fingerprint": "f00d"}, **options)
    done = 0
    for start in range(0, len(samples), batch):
        piece = samples[start : start + batch]
        window = slice(done, done + sum(sample.status == OK for sample in piece))
        writer.write(piece, {n: v[window] for n, v in vectors.items()}, {n: v[window] for n, v in scalars.items()})
        done = window.stop
    return writer, writer.close()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 40),
    failures=st.sets(st.integers(0, 39)),
    batch=st.integers(1, 50),
    group=st.integers(1, 50),
    url=st.sampled_from(["memory://projections/run", "local"]),
)
def test_every_row_is_read_as_it_was_written(tmp_path_factory, rows, failures, batch, group, url):
    run_dir = RunDirectory(str(tmp_path_factory.mktemp("run")) if url == "local" else url)
    run_dir.create_or_resume(make_manifest())
    samples = make_samples(rows, failures)
    good = sum(sample.status == OK for sample in samples)
    vectors, scalars = make_vectors(SPEC, good)
    writer, stored = write(run_dir, samples, vectors, scalars, batch, row_group_bytes=group * ROW_BYTES)
    assert stored.bytes == run_dir.storage.size(writer.path)
    with open_table(run_dir, writer.path) as file:
        assert file.row_groups == -(-rows // group)
        table = file.read()
    assert table.schema.equals(arrow_schema(SPEC))
    for name, dim in SPEC.vectors.items():
        values, valid = vectors_of(table[name])
        assert values.shape == (rows, dim)
        assert values.dtype == np.float16
        np.testing.assert_array_equal(valid, [sample.status == OK for sample in samples])
        np.testing.assert_array_equal(values[valid], vectors[name].astype(np.float16))
    for name in ("scale", "norm", "remainder"):
        np.testing.assert_array_equal(table[name].drop_null().to_numpy(), scalars[name])
        assert table[name].null_count == rows - good
    for name in ("index", "key", "status", "label", "caption", "width", "height", "phash", "offset", "nbytes"):
        assert table[name].to_pylist() == [getattr(sample, name) for sample in samples]
    assert table["attributes"].to_pylist() == [sample.attributes for sample in samples]
    assert set(table["shard_id"].to_pylist()) <= {3}


def test_the_footer_says_what_the_file_is(run_dir):
    writer, _ = write(run_dir, make_samples(5), *make_vectors(SPEC, 5))
    metadata = pq.read_schema(run_dir.storage.full(writer.path)).metadata
    assert metadata[b"clipaudit.fingerprint"] == b"f00d"
    assert metadata[b"clipaudit.shard"] == b"/data/train-000003.tar"
    assert metadata[b"clipaudit.shard_id"] == b"3"
    assert metadata[b"clipaudit.head_dim"] == b"4"
    assert metadata[b"clipaudit.embed_dim"] == b"8"


def test_vectors_are_plain_and_metadata_is_compressed(run_dir):
    writer, _ = write(run_dir, make_samples(50), *make_vectors(SPEC, 50))
    group = pq.read_metadata(run_dir.storage.full(writer.path)).row_group(0)
    chunks = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
    for name in SPEC.vectors:
        assert chunks[name].compression == "UNCOMPRESSED"
        assert chunks[name].statistics is None
        assert "PLAIN_DICTIONARY" not in chunks[name].encodings
        assert "RLE_DICTIONARY" not in chunks[name].encodings
    for name in ("key", "attributes.place", "label"):
        assert chunks[name].compression == "ZSTD"


def test_the_hash_is_that_of_the_file(run_dir):
    writer, stored = write(run_dir, make_samples(50), *make_vectors(SPEC, 50))
    assert stored.sha256 == hashlib.sha256(run_dir.storage.read(writer.path)).hexdigest()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 65520.0, -1e30])
@pytest.mark.parametrize("column", ["embedding", "L01H01", "mlp_L01"])
def test_what_float16_cannot_hold_becomes_a_failure_row(run_dir, value, column):
    samples = make_samples(20, failures=(0, 3))
    vectors, scalars = make_vectors(SPEC, 18)
    vectors[column][5, 2] = value
    writer = ProjectionWriter(run_dir, make_shard(0), "a", SPEC, {})
    kept = writer.write(samples, vectors, scalars)
    writer.close()
    assert kept.sum() == 17
    assert not kept[5]
    assert samples[7].status == NOT_FINITE
    assert "float16" in samples[7].detail
    assert writer.counts == {OK: 17, "undecodable": 2, NOT_FINITE: 1}
    with open_table(run_dir, writer.path) as file:
        table = file.read()
    values, valid = vectors_of(table["L00H00"])
    np.testing.assert_array_equal(values[valid], vectors["L00H00"][kept].astype(np.float16))
    assert table["status"].to_pylist()[7] == NOT_FINITE


def test_a_scalar_that_is_not_finite_fails_its_row_too(run_dir):
    vectors, scalars = make_vectors(SPEC, 3)
    scalars["remainder"][1] = np.nan
    writer = ProjectionWriter(run_dir, make_shard(0), "a", SPEC, {})
    assert writer.write(make_samples(3), vectors, scalars).tolist() == [True, False, True]
    writer.abort()


def test_the_largest_float16_is_kept(run_dir):
    vectors, scalars = make_vectors(SPEC, 2)
    vectors["L00H00"][0] = 65504
    writer = ProjectionWriter(run_dir, make_shard(0), "a", SPEC, {})
    assert writer.write(make_samples(2), vectors, scalars).all()
    writer.abort()


def test_pixels_do_not_wait_for_the_row_group(run_dir):
    samples = make_samples(4)
    for sample in samples:
        sample.image = np.zeros((4, 4, 3), np.uint8)
    image = weakref.ref(samples[0].image)
    writer = ProjectionWriter(run_dir, make_shard(0), "a", SPEC, {})
    writer.write(samples, *make_vectors(SPEC, 4))
    del samples, sample
    gc.collect()
    assert image() is None
    writer.abort()


@pytest.mark.parametrize(
    ("name", "shape"),
    [("embedding", (5, 8)), ("L00H00", (4, 3)), ("L00H00", None), ("scale", (4, 1)), ("extra", (4, 4))],
)
def test_arrays_of_the_wrong_shape_are_refused_by_name(run_dir, name, shape):
    vectors, scalars = make_vectors(SPEC, 4)
    target = scalars if name == "scale" else vectors
    if shape is None:
        del target[name]
    else:
        target[name] = np.zeros(shape, np.float32)
    writer = ProjectionWriter(run_dir, make_shard(0), "a", SPEC, {})
    with pytest.raises(ValueError, match=name):
        writer.write(make_samples(4), vectors, scalars)
    writer.abort()


def test_long_captions_do_not_wait_for_a_full_row_group(run_dir):
    samples = make_samples(40)
    for number, sample in enumerate(samples):
        sample.caption = f"{number:>10000}"
    writer, _ = write(run_dir, samples, *make_vectors(SPEC, 40), batch=4, row_group_bytes=100_000)
    with open_table(run_dir, writer.path) as file:
        assert file.row_groups == 4, "12 captions of 10,000 characters are the first to pass 100,000"
        assert file.read()["caption"].to_pylist() == [sample.caption for sample in samples]


@pytest.mark.parametrize("rows", [0, 5])
def test_abort_leaves_no_file(run_dir, rows):
    writer = ProjectionWriter(run_dir, make_shard(0), "a", SPEC, {}, row_group_bytes=2 * ROW_BYTES)
    writer.write(make_samples(rows), *make_vectors(SPEC, rows))
    writer.abort()
    writer.abort()
    assert run_dir.storage.names("projections") == []


@pytest.mark.parametrize("group", [1, 1000])
def test_a_full_disk_while_writing_is_one_sentence(run_dir, group):
    # the kernel's own "no space left": a name that leads to /dev/full
    Path(run_dir.storage.full("projections/000000-a.parquet")).symlink_to("/dev/full")
    writer = ProjectionWriter(run_dir, make_shard(0), "a", SPEC, {}, row_group_bytes=group * ROW_BYTES)
    sentence = r"no space left while writing .*000000-a\.parquet: committed shards are safe"
    with pytest.raises(StorageFull, match=sentence):  # noqa: PT012
        for start in range(0, 2000, 50):
            writer.write(make_samples(50), *make_vectors(SPEC, 50, start))
        writer.close()
    writer.abort()
    assert run_dir.storage.names("projections") == []


def test_verify_names_what_is_wrong(run_dir):
    writer, stored = write(run_dir, make_samples(5), *make_vectors(SPEC, 5))
    right = {"rows": 5, "size": stored.bytes}
    verify(run_dir, writer.path, SPEC, **right, footer={"clipaudit.fingerprint": "f00d"})
    with pytest.raises(IntegrityError, match="has 5 rows where 6 were written"):
        verify(run_dir, writer.path, SPEC, rows=6, size=stored.bytes)
    with pytest.raises(IntegrityError, match="bytes where 1 were written"):
        verify(run_dir, writer.path, SPEC, rows=5, size=1)
    with pytest.raises(IntegrityError, match="does not have the run's columns"):
        verify(run_dir, writer.path, TableSpec(heads=("L00H00",), head_dim=4, embed_dim=8), **right)
    with pytest.raises(IntegrityError, match=r"clipaudit\.fingerprint = 'f00d'"):
        verify(run_dir, writer.path, SPEC, **right, footer={"clipaudit.fingerprint": "beef"})
    with pytest.raises(IntegrityError, match="is not there"):
        verify(run_dir, "projections/none.parquet", SPEC, **right)


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_truncated_file_is_damaged(run_dir, keep):
    writer, _ = write(run_dir, make_samples(5), *make_vectors(SPEC, 5))
    run_dir.storage.replace(writer.path, run_dir.storage.read(writer.path)[:keep])
    with pytest.raises(IntegrityError, match="is damaged"):
        open_table(run_dir, writer.path)


def test_a_column_in_one_piece_is_not_copied(run_dir):
    writer, _ = write(run_dir, make_samples(5), *make_vectors(SPEC, 5))
    with open_table(run_dir, writer.path) as file:
        column = file.read(["L00H00"])["L00H00"]
    values, _ = vectors_of(column)
    assert values.ctypes.data == column.chunk(0).buffers()[1].address
    sliced, _ = vectors_of(column.slice(2, 2))
    np.testing.assert_array_equal(sliced, values[2:4])
