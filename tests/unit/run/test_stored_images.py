"""Images are read by their places from shards that are what the run recorded, and from no others."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from clipaudit.errors import ShardUnreadable
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.run.stored_images import MAX_BYTES, StoredImages
from clipaudit.shards.listing import expand
from tests.make_runs import SPEC, make_manifest
from tests.make_shards import jpeg_bytes, member_offsets, write_shard


@pytest.fixture
def shard(tmp_path):
    return write_shard(tmp_path / "s-0.tar", [("a", {"jpg": jpeg_bytes(64, 48, seed=1)})])


@pytest.fixture
def run(tmp_path, shard):
    directory = RunDirectory(str(tmp_path / "run"))
    directory.create(make_manifest(SPEC, tuple(expand([str(shard)]))))
    return Run(directory)


@pytest.fixture
def place(shard):
    return member_offsets(shard)["a.jpg"][1], len(jpeg_bytes(64, 48, seed=1))


def test_a_shard_is_looked_at_once(run, place, monkeypatch):
    from clipaudit.run import stored_images

    looks = []
    check = stored_images.check_shard
    monkeypatch.setattr(stored_images, "check_shard", lambda shard: (looks.append(shard.id), check(shard)))
    images = StoredImages(run)
    assert [images.read(0, *place) for _ in range(3)] == [jpeg_bytes(64, 48, seed=1)] * 3
    assert images.fault(0) is None
    assert looks == [0]


def test_many_threads_compare_a_touched_shard_once(run, shard, place, monkeypatch):
    from clipaudit.run import stored_images

    hashed = []

    def content(shard, sha256):
        time.sleep(0.05)
        hashed.append(shard.id)
        return True

    monkeypatch.setattr(stored_images, "has_content", content)
    run.records[0] = SimpleNamespace(input_sha256="0" * 64)
    os.utime(shard, (1, 1))
    images = StoredImages(run)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: images.read(0, *place), range(8))) == {jpeg_bytes(64, 48, seed=1)}
    assert hashed == [0]


def test_a_shard_that_cannot_be_compared_is_a_fault_and_no_crash(run, shard, monkeypatch):
    from clipaudit.run import stored_images

    def gone(shard, sha256):
        raise ShardUnreadable("it is gone")

    monkeypatch.setattr(stored_images, "has_content", gone)
    run.records[0] = SimpleNamespace(input_sha256="0" * 64)
    os.utime(shard, (1, 1))
    assert StoredImages(run).fault(0) == "it is gone"


def test_a_rewritten_shard_is_never_read(run, shard, place):
    os.utime(shard, (1, 1))
    images = StoredImages(run)
    assert images.fault(0) == "the shard has changed since the audit"
    with pytest.raises(ShardUnreadable, match=rf"^{shard}: the shard has changed since the audit$"):
        images.read(0, *place)


@pytest.mark.parametrize(
    ("offset", "nbytes", "words"),
    [
        (None, 9, "the place of the image in the shard is not stored"),
        (512, None, "the place of the image in the shard is not stored"),
        (512, MAX_BYTES + 1, "67,108,865 bytes, more than 64 MiB, is not read"),
        (-1, 9, "9 bytes at -1 of .* cannot be an image"),
    ],
)
def test_what_cannot_be_read_is_one_kind_of_error(run, offset, nbytes, words):
    with pytest.raises(ShardUnreadable, match=words):
        StoredImages(run).read(0, offset, nbytes)
