"""Shard patterns: what they name, in which order, and which sentence they end in."""

import os
import sys
from pathlib import Path

import fsspec
import pytest

from clipaudit.errors import ShardChanged, ShardNotFound, ShardUnreadable, UsageError
from clipaudit.schema import Shard
from clipaudit.shards.listing import expand
from clipaudit.shards.reader import estimate_samples, verify_unchanged
from tests.make_shards import write_photos


@pytest.fixture
def folder(tmp_path):
    for i in range(12):
        (tmp_path / f"a-{i:04d}.tar").write_bytes(bytes(1024 * (i + 1)))
    (tmp_path / "notes.txt").write_text("no shard")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.tar").write_bytes(bytes(1024))
    return tmp_path


def names(shards):
    return [Path(shard.url).name for shard in shards]


def test_ids_sizes_and_order(folder):
    shards = expand([f"{folder}/a-{{0002..0003}}.tar", f"{folder}/a-000[0-3].tar"])
    assert names(shards) == ["a-0002.tar", "a-0003.tar", "a-0000.tar", "a-0001.tar"]
    assert [shard.id for shard in shards] == [0, 1, 2, 3]
    assert [shard.size for shard in shards] == [3072, 4096, 1024, 2048]
    assert all(shard.etag for shard in shards)


def test_relative_and_absolute_paths_and_file_urls_are_one_shard(folder, monkeypatch):
    monkeypatch.chdir(folder)
    shards = expand(["a-0000.tar", f"{folder}/a-0000.tar", f"file://{folder}/a-0000.tar", "./sub/../a-0000.tar"])
    assert [shard.url for shard in shards] == [str(folder / "a-0000.tar")]


def test_many_named_shards_need_one_listing(folder, monkeypatch):
    for i in range(100):
        (folder / f"n-{i:03d}.tar").write_bytes(b"")
    real, calls = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: calls.append(path) or real(path))
    monkeypatch.setattr(os, "stat", lambda *args, **kwargs: pytest.fail("a stat for a single shard"))
    shards = expand([f"{folder}/n-{{000..099}}.tar"])
    monkeypatch.undo()
    assert len(shards) == 100
    assert len(calls) == 1


def test_globs_leave_out_directories_and_hidden_files(folder):
    (folder / ".hidden.tar").write_bytes(b"")
    (folder / "directory.tar").mkdir()
    assert names(expand([f"{folder}/*.tar"])) == [f"a-{i:04d}.tar" for i in range(12)]
    assert names(expand([f"{folder}/*/*.tar"])) == ["b.tar"]
    assert names(expand([f"{folder}/**/b.tar"])) == ["b.tar"]


def test_a_symlink_has_its_targets_size_and_etag(folder):
    (folder / "link.tar").symlink_to(folder / "a-0003.tar")
    by_name, by_glob = expand([f"{folder}/link.tar"])[0], expand([f"{folder}/lin?.tar"])[0]
    assert by_name == by_glob
    assert by_name.size == 4096


def test_zero_matches_names_the_pattern(folder):
    with pytest.raises(ShardNotFound, match=r"no shard matches .*b-\*\.tar'") as caught:
        expand([f"{folder}/a-0000.tar", f"{folder}/b-*.tar"])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("last", [12, 40])  # few shards are looked up one by one, many by a listing
def test_missing_shards_are_named_and_counted(folder, last):
    (folder / "a-0002.tar").unlink()
    with pytest.raises(ShardNotFound, match=rf"2\.tar does not exist, nor do {last - 11} others of the {last + 1} "):
        expand([f"{folder}/a-{{0000..{last:04d}}}.tar"])
    with pytest.raises(ShardNotFound, match=r"a-0002\.tar does not exist$"):
        expand([f"{folder}/a-{{0000..0011}}.tar"])


def test_missing_directory(folder):
    with pytest.raises(ShardNotFound, match=r"nowhere/a-00\.tar does not exist, nor do 99"):
        expand([f"{folder}/nowhere/a-{{00..99}}.tar"])
    with pytest.raises(ShardNotFound, match="no shard matches"):
        expand([f"{folder}/nowhere/*.tar"])


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_directory_says_what_to_give(folder, ending):
    with pytest.raises(UsageError, match=r"/sub is a directory: give .*/sub/\*\.tar$"):
        expand([f"{folder}/sub{ending}"])


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar.zst", "x.TAR.BZ2", "x.tar.xz"])
def test_compressed_tars_are_refused(folder, name):
    (folder / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=r"is compressed: unpack it"):
        expand([f"{folder}/{name}"])
    with pytest.raises(UsageError, match=r"is compressed: unpack it"):
        expand([f"{folder}/x*"])


def test_braces_that_are_not_balanced_stand_for_themselves(folder):
    (folder / "a-{0.tar").write_bytes(b"")
    assert names(expand([f"{folder}/a-{{0.tar"])) == ["a-{0.tar"]
    assert names(expand([f"{folder}/a-{{*.tar"])) == ["a-{0.tar"]
    with pytest.raises(ShardNotFound, match=r"shard .*/b-\{0\.\.1\.tar does not exist; its braces are not balanced"):
        expand([f"{folder}/b-{{0..1.tar"])
    with pytest.raises(ShardNotFound, match=r"no shard matches '.*/\{b\*'; its braces are not balanced"):
        expand([f"{folder}/{{b*"])


def test_more_shards_than_one_job_takes(folder, monkeypatch):
    monkeypatch.setattr("clipaudit.shards.listing.MAX_SHARDS", 12)
    assert len(expand([f"{folder}/a-*.tar"])) == 12
    with pytest.raises(UsageError, match=r"the patterns up to '.*/sub/b\.tar' name 13 shards, .* takes at most 12$"):
        expand([f"{folder}/a-*.tar", f"{folder}/sub/b.tar"])


def test_no_shards_at_all():
    with pytest.raises(UsageError, match="no shards were given"):
        expand([])


def test_pipes_and_unknown_protocols():
    with pytest.raises(UsageError, match="commands are not run"):
        expand(["pipe:cat a.tar"])
    with pytest.raises(UsageError, match=r"nosuch://x/a\.tar: Protocol not known: nosuch"):
        expand(["nosuch://x/a.tar"])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(UsageError, match=r"pip install s3fs$"):
        expand(["s3://bucket/a-{0..3}.tar"])


@pytest.mark.parametrize("pattern", ["http://127.0.0.1:9/a.tar", "http://127.0.0.1:9/a-{00..40}.tar"])
def test_an_unreachable_url(pattern):
    with pytest.raises(UsageError, match=r"^cannot reach http://127\.0\.0\.1:9/a"):
        expand([pattern])


def test_other_file_systems(tmp_path):
    fs = fsspec.filesystem("memory")
    for i in range(20):
        fs.pipe(f"/shards/a-{i:02d}.tar", bytes(1024 + i))
    try:
        shards = expand(["memory://shards/a-{00..19}.tar"])
        assert [shard.size for shard in shards] == [1024 + i for i in range(20)]
        assert shards[3].url == "memory://shards/a-03.tar"
        assert expand(["memory://shards/*.tar"]) == shards
        assert expand(["memory://shards/a-03.tar"])[0].etag == shards[3].etag
        assert len(expand(["memory://sh*/*1.tar"])) == 2
        with pytest.raises(ShardNotFound, match=r"memory://shards/b\.tar does not exist$"):
            expand(["memory://shards/b.tar"])
        with pytest.raises(UsageError, match=r"memory://shards is a directory"):
            expand(["memory://shards"])
        verify_unchanged(shards[0])
        fs.pipe("/shards/a-00.tar", bytes(9))
        with pytest.raises(ShardChanged, match="has 9 bytes now; the run recorded 1024"):
            verify_unchanged(shards[0])
    finally:
        fs.rm("/shards", recursive=True)


def test_a_shard_that_changed(folder):
    shard = expand([f"{folder}/a-0000.tar"])[0]
    verify_unchanged(shard)
    os.utime(shard.url, ns=(1, 1))
    with pytest.raises(ShardChanged, match="was rewritten"):
        verify_unchanged(shard)
    Path(shard.url).unlink()
    with pytest.raises(ShardUnreadable, match="does not exist any more"):
        verify_unchanged(shard)


def test_estimate(tmp_path):
    paths = [write_photos(tmp_path / f"{i}.tar", 10) for i in range(3)]
    shards = expand([str(path) for path in paths])
    assert estimate_samples(shards) == 30
    assert estimate_samples([]) == 0
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"")
    assert estimate_samples(expand([str(broken)])) == 0
    assert estimate_samples([Shard(id=0, url="nosuch://x", size=1, etag="")]) == 0


# -- other tools' syntax, names with globs in them, links ------------------------------------------------------------


def urls(*patterns):
    return [shard.url for shard in expand([str(pattern) for pattern in patterns])]


def test_sources_joined_as_webdataset_joins_them_are_all_read(tmp_path):
    for name in ("a.tar", "b-0.tar", "b-1.tar"):
        (tmp_path / name).write_bytes(bytes(10240))
    joined = f"{tmp_path}/a.tar::{tmp_path}/b-{{0..1}}.tar"
    assert urls(joined) == [f"{tmp_path}/{name}" for name in ("a.tar", "b-0.tar", "b-1.tar")]
    with pytest.raises(ShardNotFound, match=r"c\.tar does not exist"):
        urls(f"{tmp_path}/a.tar::{tmp_path}/c.tar")


def test_chains_of_fsspec_stay_whole():
    from clipaudit.shards.listing import split_sources

    for chain in ("simplecache::s3://bucket/a.tar", "zip://a.tar::s3://bucket/all.zip", "s3://bucket/a.tar"):
        assert split_sources(chain) == [chain]
    assert split_sources("s3://b/a.tar::s3://b/c.tar") == ["s3://b/a.tar", "s3://b/c.tar"]


def test_braces_in_names_that_exist_are_no_pattern(tmp_path):
    for name in ("a{1,2}.tar", "@d.tar", "{0..3}/e.tar", "photos [2024]/x/f.tar", "photos [2024]/y/f.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(bytes(10240))
    for name in ("a{1,2}.tar", "@d.tar", "{0..3}/e.tar"):
        assert urls(tmp_path / name) == [str(tmp_path / name)]
    deep = [str(tmp_path / f"photos [2024]/{name}/f.tar") for name in "xy"]
    assert urls(tmp_path / "photos [2024]" / "*" / "f.tar") == deep
    assert urls(tmp_path / "photos [2024]" / "{x,y}" / "f.tar") == deep
    with pytest.raises(UsageError, match=r"photos \[2024\] is a directory: give .*/\*/\*\.tar"):
        urls(f"{tmp_path}/photos [2024]/")


def test_brackets_in_an_object_stores_names_are_no_pattern_where_they_exist():
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/a[1].tar", bytes(1024))
    memory.pipe_file("/bucket/a1.tar", bytes(1024))
    assert urls("memory://bucket/a[1].tar") == ["memory://bucket/a[1].tar"]
    assert urls("memory://bucket/a[0-9].tar") == ["memory://bucket/a1.tar"]
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize("folder", ["photos [2024]", "what?", "all*"])
def test_a_path_that_exists_is_taken_as_it_is(tmp_path, folder):
    (tmp_path / folder).mkdir()
    shard = tmp_path / folder / "0[1].tar"
    shard.write_bytes(bytes(10240))
    (tmp_path / folder / "02.tar").write_bytes(bytes(10240))
    assert urls(shard) == [str(shard)]
    assert urls(tmp_path / folder / "{02..02}.tar") == [str(tmp_path / folder / "02.tar")]
    assert urls(tmp_path / folder / "*.tar") == [str(tmp_path / folder / "02.tar"), str(shard)]
    with pytest.raises(ShardNotFound, match=r"03\.tar does not exist"):
        urls(tmp_path / folder / "03.tar")


def test_a_shard_counts_once_however_it_is_reached(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.tar").write_bytes(bytes(10240))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "b.tar").symlink_to(tmp_path / "real" / "a.tar")
    shards = urls(tmp_path / "link" / "a.tar", tmp_path / "real" / "*.tar", tmp_path / "b.tar")
    assert shards == [str(tmp_path / "link" / "a.tar")]


@pytest.mark.parametrize(
    ("pattern", "error", "words"),
    [
        ("{0}/images", UsageError, "without .tar files: make shards first"),
        ("{0}/shards", UsageError, "give .*/shards/\\*.tar"),
        ("{0}/table.csv", UsageError, "is a table, not a tar"),
        ("{0}/images/a.jpg", UsageError, "is an image, not a tar"),
        ("{0}/list.txt", UsageError, "is a text file, not a tar .* give \\$\\(cat "),
        ("{0}", UsageError, "is a directory: give .*/\\*/\\*\\.tar"),
        ("@{0}/list.txt", UsageError, "are not read from files; give \\$\\(cat "),
        ("{0}/a.tar,{0}/b.tar", ShardNotFound, "separate shards by spaces"),
        ("pipe:cat {0}/a.tar", UsageError, "commands are not run"),
    ],
)
def test_what_is_no_shard_says_what_to_do(tmp_path, pattern, error, words):
    for name in ("images/a.jpg", "shards/a.tar", "table.csv", "list.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(10240))
    with pytest.raises(error, match=words):
        urls(pattern.format(tmp_path))
