"""`check --model` on shards that are not what they were: one sentence for each, no traceback."""

import os
import shutil
from pathlib import Path

import pytest

from clipaudit.errors import IntegrityError
from tests.make_shards import jpeg_bytes, write_shard

PHOTOS = [jpeg_bytes(40 + 8 * number, 30, seed=number) for number in range(4)]


def write(path, photos):
    return write_shard(path, [(f"p{number}", {"jpg": photo}) for number, photo in enumerate(photos)])


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model):
    """A folder with a shard and a run over it."""
    from clipaudit.config import ExecutionConfig, JobConfig, ModelConfig, StoreConfig
    from clipaudit.job.driver import run_job

    folder = tmp_path_factory.mktemp("recompute")
    config = JobConfig(
        shards=(str(write(folder / "s-0.tar", PHOTOS)),),
        out=str(folder / "run"),
        model=ModelConfig(name=tiny_model, device="cpu"),
        store=StoreConfig(layers="1"),
        execution=ExecutionConfig(engine="local"),
    )
    run_job(config)
    return folder


@pytest.fixture
def shard(made):
    """The shard, which is put back as it was."""
    path, copy = made / "s-0.tar", made / "copy.tar"
    shutil.copy2(path, copy)
    yield path
    shutil.copy2(copy, path)


def problems(made):
    from clipaudit.job.recompute import recompute

    return recompute(str(made / "run"))


def keep_time(path: Path, write_new):
    stat = path.stat()
    write_new()
    assert path.stat().st_size == stat.st_size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_run_agrees_with_its_model(made):
    found = problems(made)
    assert (found.images, found.problems) == (4, [])
    assert found.largest_difference < 2e-3


def test_a_rewritten_shard_is_a_sentence(made, shard):
    write(shard, PHOTOS[:3])
    found = problems(made)
    assert found.images == 0
    assert found.problems == [
        f"{shard}: the shard has changed since the audit, so its images cannot be compared with the run"
    ]


def test_a_reordered_shard_of_the_same_size_and_time_is_a_sentence(made, shard):
    keep_time(shard, lambda: write(shard, PHOTOS[::-1]))
    (sentence,) = problems(made).problems
    assert f"{shard}: there is no image where that of p" in sentence or "differs by" in sentence


def test_bytes_that_are_no_image_any_more_are_a_sentence(made, shard):
    keep_time(shard, lambda: shard.write_bytes(bytes(shard.stat().st_size)))
    (sentence,) = problems(made).problems
    assert f"{shard}: there is no image where that of p0 was" in sentence


def test_a_shard_that_is_gone_is_a_sentence(made, shard):
    shard.unlink()
    (sentence,) = problems(made).problems
    assert sentence == f"{shard}: the shard is not there any more, so its images cannot be compared with the run"


def test_the_command_says_it_and_ends_with_4(made, shard, capsys):
    from clipaudit.cli.run import check

    write(shard, PHOTOS[:3])
    with pytest.raises(IntegrityError, match="the shard has changed since the audit") as error:
        check(str(made / "run"), model=True)
    assert error.value.exit_code == 4
    assert "problem" in capsys.readouterr().out
