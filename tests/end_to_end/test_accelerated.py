"""The options that trade for speed, by the real command."""

import numpy as np
import pytest

from clipaudit.run.reader import Run
from tests.make_shards import jpeg_bytes, write_members


@pytest.fixture
def shards(tmp_path):
    for number in range(2):
        files = ((f"{number}{n:02d}.jpg", jpeg_bytes(90, 60, seed=20 * number + n)) for n in range(20))
        write_members(tmp_path / f"{number}.tar", files)
    return str(tmp_path / "{0..1}.tar")


@pytest.mark.full
def test_int8_with_processes_and_device_resizing_is_close_to_plain_and_says_so(clipaudit, tmp_path, shards, tiny_model):
    plain = ("audit", shards, "--model", tiny_model, "--engine", "local", "--batch-size", "8")
    fast = ("--precision", "int8", "--resize", "device", "--decode-processes", "2")
    for name, options in (("plain", ()), ("fast", fast)):
        done = clipaudit(*plain, "--out", tmp_path / name, *options)
        assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert "against fp32 on 20 images of the first shard: least cosine 0.99" in said
    one, other = Run(str(tmp_path / "plain")), Run(str(tmp_path / "fast"))
    agreement = other.manifest.model["agreement"]
    assert agreement["images"] == 20
    assert "agreement" not in one.manifest.model
    before, after = (
        one.vectors("embedding", dtype=np.float32).values,
        other.vectors("embedding", dtype=np.float32).values,
    )
    assert ((before * after).sum(axis=1) > 0.99).all()
    assert not np.array_equal(before, after)
    columns = ["key", "width", "height", "phash"]
    assert one.table(columns).to_pylist() == other.table(columns).to_pylist()
    checked = clipaudit("check", tmp_path / "fast", "--model", "--json")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    resumed = clipaudit(*plain, "--out", tmp_path / "fast")
    assert resumed.returncode == 2
    assert "precision" in resumed.stderr
    assert "resize" in resumed.stderr


def test_int8_below_its_limit_is_refused_before_anything_is_written(clipaudit, tmp_path, shards, tiny_model):
    options = ("--model", tiny_model, "--engine", "local", "--precision", "int8", "--min-agreement", "1")
    done = clipaudit("audit", shards, "--out", tmp_path / "run", *options)
    assert done.returncode == 2
    assert "below --min-agreement 1" in " ".join(done.stderr.split())
    assert not (tmp_path / "run").exists()
