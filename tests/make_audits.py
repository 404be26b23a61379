"""Audited and indexed runs of small photos, made in this process: what the real command writes, sooner."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from clipaudit.cli.console.job import ConsoleReporter
from clipaudit.config import ExecutionConfig, FieldsConfig, JobConfig, ModelConfig, StoreConfig
from clipaudit.demo.world.datasets import write_world
from clipaudit.job.driver import Reporter, run_job
from clipaudit.job.engine_local import LocalPool
from clipaudit.retrieval.plan import IndexConfig, build_indexes
from clipaudit.run.reader import Run
from tests.make_runs import MEMORY
from tests.make_shards import write_photos
from tests.worded_models import write_worded_model


def audited(folder: Path, shards: int = 2, images: int = 12, *, index: bool = True) -> Run:
    """`folder/run` over `folder/s-N.tar`, of a tiny model that can read: two heads of 16 in two layers."""
    model = write_worded_model(folder / "model", layers=2, image_size=32)
    for number in range(shards):
        write_photos(folder / f"s-{number}.tar", images, prefix=f"p{number}")
    config = JobConfig(
        shards=(f"{folder}/s-*.tar",),
        out=str(folder / "run"),
        model=ModelConfig(name=str(model), device="cpu"),
        fields=FieldsConfig(label="cls", attributes=("json:place",)),
        store=StoreConfig(layers="2"),
        execution=ExecutionConfig(engine="local"),
    )
    pool = LocalPool(config)
    with ConsoleReporter(config) as reporter:
        run_job(config, pool, reporter, threading.Event())
    if index:
        build_indexes(IndexConfig(run=config.out, memory=MEMORY))
    return Run(config.out)


def audited_world(
    folder: Path,
    world: str,
    count: int,
    seed: int,
    *,
    label: str | None = "cls",
    caption: str | None = None,
    attributes: Sequence[str] = ("background", "place", "split", "style", "tint"),
    layers: str = "4",
) -> Run:
    """A world of the demo with its factors as attributes, through the demo model."""
    shards = write_world(world, folder / "shards", count=count, seed=seed, shard_size=500)
    config = JobConfig(
        shards=tuple(map(str, shards)),
        out=str(folder / "run"),
        model=ModelConfig(name="demo", device="cpu"),
        fields=FieldsConfig(label=label, attributes=tuple(f"json:{name}" for name in attributes), caption=caption),
        store=StoreConfig(layers=layers),
        execution=ExecutionConfig(engine="local"),
    )
    run_job(config, LocalPool(config), Reporter(), threading.Event())
    return Run(config.out)
