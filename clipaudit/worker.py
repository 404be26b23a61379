"""One worker: a loaded model that turns one shard after another into a projections file and a moments file."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from clipaudit.config import AuditConfig, parse_layers
from clipaudit.decomposer import Decomposer, Decomposition
from clipaudit.errors import ShardError
from clipaudit.feed import ShardFeed
from clipaudit.fields import parse_fields
from clipaudit.images import ImageDecoder
from clipaudit.model import Normaliser, load_model
from clipaudit.moments import MomentsAccumulator
from clipaudit.projections import ProjectionWriter
from clipaudit.rundir import CommitRecord, RunDirectory
from clipaudit.schema import NOT_FINITE, OK, Sample, TableSpec, attention_column, head_label, mlp_column
from clipaudit.tasks import Task, WorkerFacts

Arrays = dict[str, npt.NDArray[np.float32]]


class ShardWorker:
    """A loaded model with everything that is needed to process shards of one run.

    Raises UsageError from its constructor when the model, the device, the layers or the fields are not usable.
    """

    def __init__(self, config: AuditConfig) -> None:
        self._config = config
        self._fields = parse_fields(config.fields)
        loaded = load_model(config.model)
        tower = Decomposer.describe(loaded.model)
        layers = parse_layers(config.store.layers, tower.layers)
        self._decomposer = Decomposer(
            loaded.model, layers=layers, terms=config.store.components, precision=config.model.precision
        )
        self._decoder = ImageDecoder(loaded.transform, config.decode)
        self._normalise = Normaliser(self._decoder.mean, self._decoder.std, loaded.device)
        self._columns = [[head_label(layer, head) for head in range(tower.heads)] for layer in layers]
        self._layers = layers
        self._run_dir = RunDirectory(config.out)
        self._basis_written = False
        self.samples_done = 0
        """Samples of the running attempt that have been written; read by the progress display."""
        self.facts = WorkerFacts(
            model={**loaded.description, "tower": tower.facts()},
            table=self._table(tower.head_dim, tower.embed_dim),
            host=platform.node(),
            device=str(loaded.device),
        )

    def process(self, task: Task) -> CommitRecord:
        """Write one shard's projections and moments, verified; the driver commits the record that this returns.

        Raises ShardError when the shard cannot be read, StorageFull when the run's file system is full.
        """
        started = time.perf_counter()
        self.samples_done = 0
        self._run_dir.begin_attempt(task.shard.id, task.attempt)
        self._write_basis()
        clock = _Clock()
        deadline = started + task.max_seconds
        moments = MomentsAccumulator(self.facts.table, self._config.store.label_moments)
        writer = ProjectionWriter(self._run_dir, task.shard, task.attempt, self.facts.table, self._footer(task))
        try:
            with ShardFeed(task.shard, self._fields, self._decoder, self._config.decode) as feed:
                with _Background() as background:
                    for samples in _batches(feed, self._config.model.batch_size):
                        if time.perf_counter() > deadline:
                            raise ShardError(f"{task.shard.url}: not done after {task.max_seconds:.0f} s")
                        vectors = clock.time("model", lambda batch=samples: self._vectors(batch))
                        background.run(self._store, writer, moments, samples, vectors, clock)
                report = feed.report
            files = clock.time("write", lambda: self._close(task, writer, moments))
        except BaseException:
            writer.abort()
            raise
        return CommitRecord(files=files, report=report, seconds=clock.seconds)
