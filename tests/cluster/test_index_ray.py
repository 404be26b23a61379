"""Indexes built in parallel on Ray actors: the same as here, and what goes wrong there is told here."""

import os
import signal
from pathlib import Path

import pytest

from clipaudit.config import ExecutionConfig
from clipaudit.errors import RunInvalid, UsageError
from clipaudit.job.engine_ray import map_items
from clipaudit.retrieval.build import build_shared
from clipaudit.retrieval.card import indexed
from clipaudit.retrieval.head_index import HeadIndex
from clipaudit.retrieval.plan import IndexConfig, build_indexes
from clipaudit.run.reader import Run
from clipaudit.schema import TableSpec
from tests.make_runs import MEMORY, make_run

SPEC = TableSpec(heads=("L00H00", "L00H01", "L01H00"), head_dim=8, embed_dim=24, label_kind="int")


pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*", "ignore::FutureWarning:ray.*"),
    pytest.mark.usefixtures("ray_metrics"),
]


@pytest.fixture
def run(tmp_path):
    return Run(make_run(str(tmp_path / "run"), SPEC, shards=2, rows=80))


def on_ray(function, workers=2, attempts=2):
    def builder(tasks):
        return map_items(function, tasks, ExecutionConfig(workers=workers, cpus_per_worker=1, max_attempts=attempts))

    return builder


@pytest.mark.full
def test_the_indexes_are_those_that_are_built_here(run):
    config = IndexConfig(run=run.directory.url, memory=MEMORY)
    cards = {card.name: card for card in build_indexes(config, on_ray(build_shared))}
    assert list(cards) == list(indexed(run.directory)) == ["L00H00", "L00H01", "L01H00", "embedding"]
    here = {card.name: card for card in build_indexes(config)}
    for name, card in cards.items():
        assert card.files["index.faiss"].sha256 == here[name].files["index.faiss"].sha256
        HeadIndex.open(run, name)


@pytest.mark.full
def test_a_mistake_on_an_actor_is_a_mistake_here(run):
    with pytest.raises(UsageError, match="--memory"):
        build_indexes(IndexConfig(run=run.directory.url, memory=10**6), on_ray(build_shared))


def _die_once(task, cpus, builders):
    mark = Path(task.run, f"{task.name}.died")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return build_shared(task, cpus, builders)


def _die(task, cpus, builders):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.full
def test_a_lost_process_is_replaced_and_its_head_built_again(run):
    cards = build_indexes(IndexConfig(run=run.directory.url, memory=MEMORY), on_ray(_die_once))
    assert len(cards) == 4


@pytest.mark.full
def test_a_head_that_kills_every_process_ends_the_job(run):
    with pytest.raises(RunInvalid, match="lost 2 times"):
        build_indexes(IndexConfig(run=run.directory.url, memory=MEMORY), on_ray(_die, workers=1))
    assert indexed(run.directory) == ()
