"""Which shard is which: copies under other names, and `--moved` there, back, nested and in two readings."""

from __future__ import annotations

import shutil

import pytest

from clipaudit.errors import UsageError
from clipaudit.run.integrity import check
from clipaudit.run.reader import Run
from tests.unit.job.test_growing import Heard, write


@pytest.fixture(scope="module")
def audit():
    from tests.synthetic_job import audit

    return audit


def test_a_renamed_copy_is_known_and_another_shard_of_its_size_is_not(audit, tmp_path):
    write(tmp_path, 0)
    audit(tmp_path, "*.tar")
    (tmp_path / "later").mkdir()
    shutil.copyfile(tmp_path / "s-000.tar", tmp_path / "later/renamed.tar")
    other = write(tmp_path / "later", 1)
    assert other.stat().st_size == (tmp_path / "s-000.tar").stat().st_size
    heard = Heard()
    assert audit(tmp_path, "later/*.tar", append=True, reporter=heard).committed == 2
    assert heard.appended == [(1, 1)]
    assert set(heard.compared) == {1}, "of the other one the beginning differs: it is not read twice"


def test_a_copy_is_known_although_the_first_one_is_gone(audit, tmp_path):
    path = write(tmp_path, 0)
    audit(tmp_path, "*.tar")
    (tmp_path / "later").mkdir()
    path.rename(tmp_path / "later/renamed.tar")
    heard = Heard()
    assert audit(tmp_path, "later/*.tar", append=True, reporter=heard).shards == 1
    assert heard.appended == [(1, 0)]


def test_two_shards_of_one_content_are_told(audit, tmp_path):
    write(tmp_path, 0)
    for name in ("t", "u"):
        shutil.copyfile(tmp_path / "s-000.tar", tmp_path / f"{name}.tar")
    (sentence,) = audit(tmp_path, "*.tar").remarks
    assert sentence == (
        f"{tmp_path}/s-000.tar and {tmp_path}/t.tar and 1 more have the same content: their images count 3 times"
    )


def test_a_shard_that_moved_there_and_back_is_read_where_it_is(audit, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    write(a, 0)
    audit(tmp_path, "a/*.tar")
    for number, (source, target) in enumerate(((a, b), (b, a), (a, b), (b, a)), 1):
        source.rename(target)
        audit(tmp_path, f"{target.name}/*.tar", moved=(f"{source}={target}",))
        run = Run(tmp_path / "run")
        assert run.manifest.shards[0].url == str(target / "s-000.tar")
        assert len(run.history.moves) == number
        assert check(str(tmp_path / "run")).problems == ()


def test_a_move_into_a_folder_of_the_old_one_is_made_once(audit, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write(data, 0)
    audit(tmp_path, "data/*.tar")
    (data / "old").mkdir()
    (data / "s-000.tar").rename(data / "old/s-000.tar")
    move = (f"{data}={data}/old",)
    for _ in range(2):
        audit(tmp_path, "data/old/*.tar", moved=move)
    write(data / "old", 1)
    audit(tmp_path, "data/old/*.tar", moved=move, append=True)
    run = Run(tmp_path / "run")
    assert [shard.url for shard in run.manifest.shards] == [f"{data}/old/s-{number:03d}.tar" for number in range(2)]
    assert len(run.history.moves) == 1


def test_a_move_that_can_be_read_in_two_ways_is_refused(audit, tmp_path):
    for number, name in enumerate(("a", "a=b")):
        (tmp_path / name).mkdir()
        write(tmp_path / name, number)
    audit(tmp_path, "a/*.tar", "a=b/*.tar")
    with pytest.raises(UsageError, match=r"--moved .*/a=b=/c: shards of the run .* lie below .*/a and below .*/a=b"):
        audit(tmp_path, "a/*.tar", "a=b/*.tar", moved=(f"{tmp_path}/a=b=/c",))
    assert not (tmp_path / "run/moves").exists()


def test_the_longest_of_several_moves_counts(audit, tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    write(tmp_path / "a", 0)
    write(tmp_path / "a/b", 1)
    audit(tmp_path, "a/*.tar", "a/b/*.tar")
    (tmp_path / "a/b").rename(tmp_path / "y")
    (tmp_path / "a").rename(tmp_path / "x")
    audit(tmp_path, "x/*.tar", "y/*.tar", moved=(f"{tmp_path}/a={tmp_path}/x", f"{tmp_path}/a/b={tmp_path}/y"))
    places = [shard.url.removeprefix(str(tmp_path)) for shard in Run(tmp_path / "run").manifest.shards]
    assert places == ["/x/s-000.tar", "/y/s-001.tar"]
