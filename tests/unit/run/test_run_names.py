"""One name or several, what a run says of itself, and its rows as frames."""

import sys

import numpy as np
import pytest

from clipaudit.errors import UsageError
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from tests.make_runs import SPEC, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "<b>a run</b>"
    make_run(str(directory))
    return Run(str(directory))


def test_one_head_is_vectors_and_several_are_vectors_by_name(run):
    several = run.heads(["L01H00", "L00H01"], columns="key")
    assert list(several) == ["L01H00", "L00H01"]
    for name, found in several.items():
        alone = run.heads(name, columns=["key"])
        np.testing.assert_array_equal(found.values, alone.values)
        np.testing.assert_array_equal(found.index, alone.index)
        assert found["key"].tolist() == alone["key"].tolist()
    assert set(run.vectors(("embedding", "mlp_L01"), ())) == {"embedding", "mlp_L01"}
    assert run.heads([]) == {}


def test_moments_of_one_head_need_no_name_twice(run):
    one, several = run.moments("L00H01"), run.moments(["L00H01", "L01H00"])
    assert one.heads == ("L00H01",)
    np.testing.assert_array_equal(one.mean(), several.mean("L00H01"))
    np.testing.assert_array_equal(one.covariance(), several.covariance("L00H01"))
    np.testing.assert_array_equal(one.variance(), several.variance("L00H01"))
    with pytest.raises(UsageError, match="of 2 heads: name one of L00H01, L01H00"):
        several.mean()


def test_basis_of_one_head_or_several(run):
    basis = run.basis()
    assert list(basis.Q(["L00H01", "L01H00"])) == ["L00H01", "L01H00"]
    np.testing.assert_array_equal(basis.Q(("L00H01",))["L00H01"], basis.Q("L00H01"))
    np.testing.assert_array_equal(basis.T(("L00H01",))["L00H01"], basis.T("L00H01"))


def test_one_column_and_one_shard(run):
    assert run.table("key", shards=1).column_names == ["key"]
    assert run.moments(shards=1).count == run.moments(shards=[1]).count == 47
    assert run.schema("label").names == ["label"]
    with pytest.raises(UsageError, match="shard 7 is not committed"):
        run.labels(shards=7)


def test_a_run_says_what_is_in_it(run):
    text = repr(run)
    for part in ("94 images", "6 undecodable", "2 of 2 shards", "4 heads of 4 numbers", "attributes.place", "caption"):
        assert part in text
    page = run._repr_html_()
    assert "94 images" in page
    assert "<b>a run</b>" not in page
    assert "&lt;b&gt;a run&lt;/b&gt;" in page


def test_a_damaged_run_still_has_a_repr(tmp_path):
    directory = make_run(str(tmp_path / "run"))
    directory.storage.replace("_committed/000001.json", b"{")
    assert "is damaged" in repr(Run(directory))


@pytest.mark.parametrize(
    "holder",
    [
        lambda run: run.heads("L00H00"),
        lambda run: run.moments(),
        lambda run: run.basis(),
    ],
)
def test_arrays_are_not_printed(run, holder):
    text = repr(holder(run))
    assert "(" in text
    assert "array" not in text
    assert "[0." not in text
    assert len(text) < 700
    assert "float" in text


def test_rows_as_polars(run):
    polars = pytest.importorskip("polars", reason="polars is no dependency of clipaudit")
    frame = run.to_polars(["key", "status", "attributes", "width"], heads="L00H00")
    assert frame.columns == ["key", "status", "attributes.place", "width", "L00H00"]
    assert frame.schema["L00H00"] == polars.Array(polars.Float32, 4)
    good = frame.filter(polars.col("status") == "ok")
    np.testing.assert_array_equal(good["L00H00"].to_numpy(), run.heads("L00H00", dtype=np.float32).values)
    assert frame.filter(polars.col("status") != "ok")["L00H00"].null_count() == 6
    assert run.to_polars("label").columns == ["label"]
    assert "attributes.place" in run.to_polars().columns


def test_rows_as_pandas(run):
    pytest.importorskip("pandas", reason="pandas is no dependency of clipaudit")
    frame = run.to_pandas(["key", "status", "attributes.place"], heads=["L00H00", "embedding"], shards=0)
    assert list(frame.columns) == ["key", "status", "attributes.place", "L00H00", "embedding"]
    good = frame[frame.status == "ok"]
    np.testing.assert_array_equal(
        np.stack(good["embedding"].to_list()), run.embedding(shards=0, dtype=np.float32).values
    )
    assert frame["L00H00"].isna().sum() == 3


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_a_missing_package_is_named(run, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=f"pip install {package}"):
        getattr(run, f"to_{package}")("key")


def test_a_run_without_labels_or_attributes_is_read_alike(tmp_path):
    import dataclasses

    spec = dataclasses.replace(SPEC, label_kind=None, attributes=(), caption=False)
    make_run(str(tmp_path / "run"), spec)
    run = Run(RunDirectory(str(tmp_path / "run")))
    assert "attributes" not in run.table().column_names
    assert set(run.column_types().values()) == {"text", "number"}
    assert set(run.heads("L00H00").columns) == {"key"}
