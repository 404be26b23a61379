"""Shards packed on Ray actors: the same bytes as those of processes here, also when an actor is lost."""

import os
import signal
from pathlib import Path

import pytest

from clipaudit.config import ExecutionConfig
from clipaudit.job.engine_ray import map_items
from clipaudit.shards.pack import PackConfig, pack
from clipaudit.shards.pack_writer import write_piece, write_shard

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*", "ignore::FutureWarning:ray.*"),
    pytest.mark.usefixtures("ray_metrics"),
]


@pytest.fixture
def photos(tmp_path):
    for number in range(30):
        path = tmp_path / f"photos/{('cat', 'dog')[number % 2]}/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8" + os.urandom(1000))
    return tmp_path / "photos"


def config_for(photos, out):
    return PackConfig(source=str(photos), out=out, shard_mb=0.02)


def on_ray(function):
    execution = ExecutionConfig(workers=2, cpus_per_worker=1, max_attempts=2)
    return lambda tasks: map_items(function, tasks, execution)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".tar", ".txt")}


def _die_once(task, threads, callers):
    mark = Path(f"{task.path}.died")
    if not mark.exists() and task.path.endswith("1.tar"):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return write_shard(task)


@pytest.mark.full
@pytest.mark.parametrize("function", [write_piece, _die_once])
def test_the_shards_are_those_that_are_packed_here(photos, tmp_path, function):
    packing = pack(config_for(photos, tmp_path / "ray"), writer=on_ray(function))
    assert packing.shards > 2
    assert packing.samples == 30
    pack(config_for(photos, tmp_path / "here"))
    assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "here")
    assert pack(config_for(photos, tmp_path / "ray")).finished_before == packing.shards
