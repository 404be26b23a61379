"""A worker on Ray that loads no model, for what happens to processes and attempts: torch takes its importer seconds."""

from __future__ import annotations

import tarfile
from dataclasses import replace

from clipaudit.config import JobConfig
from clipaudit.job import engine_ray
from clipaudit.job.fields import fields_of
from clipaudit.job.protocol import Task, WorkerFacts
from clipaudit.run.basis import write_basis
from clipaudit.run.directory import RunDirectory
from clipaudit.run.records import CommitRecord
from clipaudit.schema import TableSpec
from tests.make_runs import make_basis, make_samples, make_vectors, write_attempt

SPEC = TableSpec(heads=("L00H00",), head_dim=4, embed_dim=8)


class PlainWorker:
    """Writes a row for every JPEG of a shard, with random vectors."""

    def __init__(self, config: JobConfig) -> None:
        self._run_dir = RunDirectory(config.out)
        fields = fields_of(config, self._run_dir)[0]
        self.facts = WorkerFacts(
            model={"name": "none", "fingerprint": "feed", "preprocess": {}, "tower": {"pooling": "token", "width": 8}},
            table=replace(SPEC, label_kind=fields.label_kind, attributes=fields.attribute_names),
            host="here",
            device="cpu",
        )
        self.samples_done = 0

    def process(self, task: Task) -> CommitRecord:
        """Read a shard's table of contents and write its rows."""
        spec = self.facts.table
        if not self._run_dir.storage.exists("basis.safetensors"):
            write_basis(self._run_dir, make_basis(spec), {"tower": "test"})
        with tarfile.open(task.shard.url) as tar:
            rows = sum(name.endswith(".jpg") for name in tar.getnames())
        vectors = make_vectors(spec, rows, task.shard.id)
        return write_attempt(self._run_dir, task.shard, spec, make_samples(rows), *vectors, task=task)


class PlainActor(engine_ray._Actor):
    """The actor of the engine with such a worker."""

    def load(self) -> WorkerFacts:
        with self._model_lock:
            if self._worker is None:
                self._worker = PlainWorker(self._config)
        return self._worker.facts
