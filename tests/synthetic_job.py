"""Jobs without a model: the real driver, reader and writer, with vectors that are made from each sample's key."""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipaudit.config import DecodeConfig, ExecutionConfig, FieldsConfig, JobConfig
from clipaudit.job.driver import Reporter, run_job
from clipaudit.job.engine_local import LocalPool
from clipaudit.job.fields import fields_of
from clipaudit.job.protocol import Task, WorkerFacts
from clipaudit.run.basis import write_basis
from clipaudit.run.directory import RunDirectory
from clipaudit.run.records import CommitRecord
from clipaudit.run.upkeep import RunStatus
from clipaudit.schema import OK, Sample, TableSpec
from clipaudit.shards.decoder import DecodedImage
from clipaudit.shards.feed import ShardFeed
from clipaudit.storage.directory import Storage
from tests.make_runs import make_basis, write_attempt

SPEC = TableSpec(heads=("L00H00", "L00H01"), head_dim=4, embed_dim=8, attributes=("number",))
PIXELS = np.zeros((4, 4, 3), np.uint8)


def vectors_of(samples: list[Sample], spec: TableSpec = SPEC) -> dict[str, npt.NDArray[np.float32]]:
    """Vector columns of ok samples, each row made from its sample's key alone."""
    keys = [
        int.from_bytes(hashlib.blake2b(sample.key.encode(), digest_size=4).digest(), "little") for sample in samples
    ]
    width = sum(spec.vectors.values())
    rows = (
        np.stack([np.random.default_rng(key).normal(0, 0.1, width) for key in keys]) if keys else np.zeros((0, width))
    )
    parts = np.split(rows.astype(np.float32), np.cumsum(list(spec.vectors.values()))[:-1], axis=1)
    return dict(zip(spec.vectors, parts, strict=True))


class SyntheticWorker:
    """What a ShardWorker is to the local engine."""

    def __init__(self, config: JobConfig) -> None:
        self._config, self._fields = config, fields_of(config, RunDirectory(config.out))[0]
        spec = replace(SPEC, label_kind=self._fields.label_kind, attributes=self._fields.attribute_names)
        self.facts = WorkerFacts(
            model={"name": "none", "fingerprint": "feed", "preprocess": {}, "tower": {"pooling": "token", "width": 8}},
            table=spec,
            host="here",
            device="cpu",
        )
        self.samples_done, self.progressed_at = 0, 0.0

    def process(self, task: Task) -> CommitRecord:
        """Read a shard and write its rows; pictures are not decoded."""
        run_dir, spec = RunDirectory(self._config.out), self.facts.table
        if not run_dir.storage.exists("basis.safetensors"):
            write_basis(run_dir, make_basis(spec), {"tower": "test"})

        def decode(data: bytes) -> DecodedImage:
            return DecodedImage(image=PIXELS, width=4, height=4, phash=int.from_bytes(data[-4:], "little"))

        with ShardFeed(task.shard, self._fields, decode, DecodeConfig(decode_threads=1)) as feed:
            samples = list(feed)
            report = feed.report
        ok = [sample for sample in samples if sample.status == OK]
        scalars = {name: np.full(len(ok), 1e-8, np.float32) for name in ("scale", "norm", "remainder")}
        record = write_attempt(run_dir, task.shard, spec, samples, vectors_of(ok, spec), scalars, task=task)
        return replace(
            record,
            input_sha256=report.sha256,
            generation=task.generation,
            attribute_kinds=report.kinds,
            bytes_good=report.bytes_good,
            truncated=report.truncated,
        )


class SyntheticPool(LocalPool):
    """The local engine with a worker that loads no model."""

    def start(self) -> None:
        self._future = self._executor.submit(SyntheticWorker, self._config)


def audit(folder: Path | str, *shards: str, out: str = "run", label: str = "cls", **options: Any) -> RunStatus:
    """One `clipaudit audit` of tars in a folder; `options` are further fields of JobConfig, or `reporter`."""
    reporter = options.pop("reporter", Reporter())
    config = JobConfig(
        shards=tuple(shard if shard.startswith("/") or "://" in shard else f"{folder}/{shard}" for shard in shards),
        out=f"{folder}/{out}",
        fields=FieldsConfig(label=label, attributes=("json:number",)),
        execution=ExecutionConfig(engine="local", max_lost_samples=1.0),
        **options,
    )
    return run_job(config, SyntheticPool(config), reporter, threading.Event())


def kill_at(number: int) -> None:
    """End this process without any clean-up at a write: 1 is before the first one, 2 after it, 3 before the second."""
    writes = 0
    lock = threading.Lock()

    def struck(name: str) -> None:
        original = getattr(Storage, name)

        def call(self: Storage, *args: Any, **kwargs: Any) -> Any:
            nonlocal writes
            with lock:
                writes += 1
                mine = writes
            if mine == (number + 1) // 2 and number % 2:
                os._exit(9)
            result = original(self, *args, **kwargs)
            if mine == (number + 1) // 2:
                os._exit(9)
            return result

        setattr(Storage, name, call)

    for name in ("create", "replace", "open_new", "remove"):
        struck(name)
