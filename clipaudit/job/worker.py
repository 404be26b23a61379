"""One worker: a loaded model that turns one shard after another into a projections file and a moments file."""

from __future__ import annotations

import platform
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import TypeAlias, TypeVar

import numpy as np
import torch

from clipaudit.arrays import Float32s
from clipaudit.config import JobConfig, LabelMoments, parse_layers
from clipaudit.errors import RunNotFound, ShardTooSlow
from clipaudit.job.agreement import measure_if_asked
from clipaudit.job.fields import fields_of
from clipaudit.job.protocol import Task, WorkerFacts
from clipaudit.job.staging import Batch, Staging
from clipaudit.model import Decomposer, describe_tower
from clipaudit.model.loading import load_model
from clipaudit.run.basis import write_basis
from clipaudit.run.directory import RunDirectory
from clipaudit.run.moments_accumulator import MomentsAccumulator
from clipaudit.run.projections import SCALARS, ProjectionWriter
from clipaudit.run.records import CommitRecord, StoredFile
from clipaudit.schema import (
    IMAGE_PROPERTIES,
    NOT_FINITE,
    OK,
    RESIDUAL_MEANS,
    Sample,
    TableSpec,
    attention_column,
    head_label,
    mlp_column,
    self_attention_column,
)
from clipaudit.shards.decoder import ImageDecoder
from clipaudit.shards.decoder_processes import ProcessDecoder
from clipaudit.shards.feed import DETAILS_PER_STATUS, Decode, ReadReport, ShardFeed
from clipaudit.shards.listing import learn_credentials

Arrays: TypeAlias = dict[str, Float32s]
Tensors: TypeAlias = dict[str, torch.Tensor]
_T = TypeVar("_T")


class ShardWorker:
    """A loaded model with everything that is needed to process the shards of one run."""

    def __init__(self, config: JobConfig, cancel: threading.Event | None = None) -> None:
        """Load the model. Once `cancel` is set the running attempt ends at its next batch.

        Raises UsageError when the model, the device, the layers or the fields cannot be used, or when a faster option
        is below `--min-agreement`.
        """
        self._config = config
        self._cancel = cancel or threading.Event()
        learn_credentials(config.shards)  # the URLs in tasks hold none
        self._run_dir = RunDirectory(config.out)
        self._fields, _ = fields_of(config, self._run_dir)
        loaded = load_model(config.model)
        tower = describe_tower(loaded.model)
        self._layers = parse_layers(config.store.layers, tower.layers)
        self._decomposer = Decomposer(
            loaded.model,
            layers=self._layers,
            terms=config.store.components,
            precision=config.model.precision,
            compiled=config.model.compile,
        )
        decoder = ImageDecoder(loaded.transform, config.decode)
        self._staging = Staging(decoder, loaded.device, self._compute)
        agreement = measure_if_asked(config, loaded, self._decomposer, decoder)
        self._decoder: Decode = decoder
        if config.decode.decode_processes:
            self._decoder = ProcessDecoder(decoder, loaded.description["preprocess"], config.decode)
        self.progressed_at = 0.0
        """Monotonic seconds when the running attempt last got through a batch."""
        self._basis_is_written = False
        self._run_files: dict[str, StoredFile] = {}
        self.samples_done = 0
        """Samples of the running attempt that have been written or are being written; other threads read it."""
        components, means = self._components() if config.store.components else ((), 0)
        self.facts = WorkerFacts(
            model={
                **loaded.description,
                "tower": _tower_facts(self._decomposer),
                **({"agreement": asdict(agreement)} if agreement is not None else {}),
            },
            table=TableSpec(
                heads=tuple(head_label(layer, head) for layer in self._layers for head in range(tower.heads)),
                head_dim=self._decomposer.readout.head_dim,
                embed_dim=tower.embed_dim,
                label_kind=self._fields.label_kind,
                attributes=self._fields.attribute_names,
                caption=config.fields.caption is not None,
                components=components,
                residual_means=means,
                image_properties=self._image_properties(),
            ),
            host=platform.node(),
            device=str(loaded.device),
        )

    def _components(self) -> tuple[tuple[str, ...], int]:
        """The columns of `--components`, and how many residual means stand beside them.

        A run that was begun before self-attention was stored goes on without it: its rows are one table.
        """
        whole = [column(layer) for column in (attention_column, mlp_column) for layer in self._layers]
        try:
            stored: tuple[str, ...] | None = self._run_dir.open().table.components
        except RunNotFound:
            stored = None
        if self._decomposer.tower.pooling != "token" or stored == tuple(whole):
            return tuple(whole), 0
        names = (*whole, *(self_attention_column(layer) for layer in self._layers))
        tower = self._decomposer.tower
        means = len(self._layers) * (tower.heads + 2) + 1 if self._decomposer.residual_means is not None else 0
        return names, means

    def _image_properties(self) -> tuple[str, ...]:
        """The image properties that are stored; a run of before they were measured goes on without them."""
        try:
            return self._run_dir.open().table.image_properties
        except RunNotFound:
            return IMAGE_PROPERTIES

    def process(self, task: Task) -> CommitRecord:
        """Write one shard's projections and moments and verify them; the driver commits the returned record.

        Raises ShardError when the shard cannot be read, or not in time, and StorageFull when the run's file system is
        full. After an error the attempt's files are removed.
        """
        clock = _Clock()
        self.samples_done = 0
        self._run_dir.begin_attempt(task.shard.id, task.attempt)
        self._write_basis()
        output = _Output(self._run_dir, task, self.facts.table, self._config.store.label_moments)
        try:
            report = self._stream(task, output, clock)
            files = clock.time("write", output.close)
        except BaseException:  # also KeyboardInterrupt: an attempt leaves no files behind
            output.abort()
            raise
        return _commit_record(task, files, self._run_files, report, output, clock, self.facts.host)

    def _stream(self, task: Task, output: _Output, clock: _Clock) -> ReadReport:
        """Read, decode, decompose and write batch after batch.

        Two batches are in flight: one is computed while the rows of the one before it are written in a thread. To wait
        for that thread before the next write bounds the memory, keeps the rows in order and raises its errors here.
        """
        with (
            ShardFeed(task.shard, self._fields, self._decoder, self._config.decode) as feed,
            ThreadPoolExecutor(1, thread_name_prefix="write") as writing,
        ):
            written: Future[None] | None = None
            self.progressed_at = time.monotonic()
            for samples in _batches(feed, self._config.model.batch_size):
                # A limit on silence, not on the shard's size: each batch starts it anew.
                silent = time.monotonic() - self.progressed_at
                if self._cancel.is_set() or silent > task.max_seconds:
                    raise ShardTooSlow(
                        f"{task.shard.url}: given up after {clock.elapsed():.0f} s, the last {silent:.0f} s of them"
                        f" without progress (--max-shard-seconds {task.max_seconds:g})"
                    )
                batch = self._submit(samples)
                if written is not None:
                    written.result()
                written = writing.submit(self._write, output, samples, batch, clock)
                self.samples_done += len(samples)
                self.progressed_at = time.monotonic()
            if written is not None:
                written.result()
            clock.add("read", feed.report.read_seconds)
            clock.add("decode", feed.report.decode_seconds / self._config.decode.decoders)
            return feed.report

    def _submit(self, samples: list[Sample]) -> Batch | None:
        """Start to compute the batch's decoded images; None when there are none."""
        images = []
        for sample in samples:
            if sample.status == OK and sample.image is not None:
                images.append(sample.image)
                sample.image = None  # rows need no pixels, and those of waiting batches would take memory
        return self._staging.submit(images) if images else None

    def _write(self, output: _Output, samples: list[Sample], batch: Batch | None, clock: _Clock) -> None:
        """Wait for a batch's results, and append its rows; runs in the writing thread."""
        arrays: Arrays = {}
        if batch is not None:
            arrays = batch.wait()
            clock.add("model", batch.seconds)
            unhashed = (sample for sample in samples if sample.status == OK and sample.phash is None)
            for sample, phash in zip(unhashed, batch.hashes(), strict=True):
                sample.phash = phash
        vectors, scalars = self._columns(arrays)
        clock.time("write", partial(output.write, samples, vectors, scalars))

    def _compute(self, images: torch.Tensor) -> Tensors:
        """(B, 3, height, width) normalised images -> what is stored of them, float32 on the model's device.

        `embedding` (B, D), `heads` (B, layers * heads, dh), each of SCALARS (B,), and with `--components` `attention`
        and `mlp` (B, layers, D), and where the table has them `self_attention` (B, layers, D) and `residual_means`.
        """
        out = self._decomposer(images)
        # (B, layers, heads, dh) -> (B, layers * heads, dh), in the order of the table's head columns
        stored: Tensors = {"embedding": out.embedding, "heads": out.heads.flatten(1, 2)}
        stored |= {name: getattr(out, name) for name in SCALARS}
        if out.attention is not None and out.mlp is not None:
            stored |= {"attention": out.attention, "mlp": out.mlp}
        if out.self_attention is not None and self_attention_column(self._layers[0]) in self.facts.table.components:
            stored["self_attention"] = out.self_attention
        if out.residual_means is not None and self.facts.table.residual_means:
            stored[RESIDUAL_MEANS] = out.residual_means
        return {name: value.float() for name, value in stored.items()}

    def _columns(self, arrays: Arrays) -> tuple[Arrays, Arrays]:
        """(vectors, scalars): the results of `_compute` by the table's column names; vectors are (B, length)."""
        if not arrays:
            return {}, {}
        vectors: Arrays = {"embedding": arrays["embedding"]}
        vectors |= {name: arrays["heads"][:, number] for number, name in enumerate(self.facts.table.heads)}
        terms = {"attention": attention_column, "mlp": mlp_column, "self_attention": self_attention_column}
        for term, column in terms.items():
            if term in arrays:
                vectors |= {column(layer): arrays[term][:, number] for number, layer in enumerate(self._layers)}
        if RESIDUAL_MEANS in arrays:
            vectors[RESIDUAL_MEANS] = arrays[RESIDUAL_MEANS]
        return vectors, {name: arrays[name] for name in SCALARS}

    def _write_basis(self) -> None:
        """Write the run's basis.safetensors, unless another worker has: all have the same weights."""
        if not self._basis_is_written:
            arrays = self._decomposer.readout.arrays(np.float32)
            if self._decomposer.residual_means is not None and self.facts.table.residual_means:
                arrays |= self._decomposer.residual_means.arrays()
            write_basis(self._run_dir, arrays, {"layers": ",".join(map(str, self._layers))})
            self._run_files = self._run_dir.run_files()
            self._basis_is_written = True


class _Output:
    """The two files of one attempt: projections and moments."""

    def __init__(self, run_dir: RunDirectory, task: Task, spec: TableSpec, label_moments: LabelMoments) -> None:
        footer = {"fingerprint": task.run_fingerprint}
        self._run_dir, self._task = run_dir, task
        self._writer = ProjectionWriter(run_dir, task.shard, task.attempt, spec, footer)
        self._moments = MomentsAccumulator(spec, label_moments)
        self._has_labels = spec.label_kind is not None
        self.details: dict[str, list[str]] = {}
        """By status, samples that the decoder accepted and the writer did not: `KEY: reason`."""

    @property
    def counts(self) -> Counter[str]:
        """Rows by status."""
        return self._writer.counts

    def write(self, samples: list[Sample], vectors: Arrays, scalars: Arrays) -> None:
        """Append a batch to both; `vectors` and `scalars` have a row for each sample whose status is `ok`."""
        computed = [sample for sample in samples if sample.status == OK]
        stored = self._writer.write(samples, vectors, scalars)
        if not computed:
            return
        if not stored.all():  # the writer has changed the status of samples with inf or nan
            vectors = {name: values[stored] for name, values in vectors.items()}
            lost = [f"{sample.key}: {sample.detail}" for sample in computed if sample.status != OK]
            self.details[NOT_FINITE] = (self.details.get(NOT_FINITE, []) + lost)[:DETAILS_PER_STATUS]
        labels = [sample.label for sample in computed if sample.status == OK] if self._has_labels else None
        self._moments.update(vectors, labels)

    def close(self) -> dict[str, StoredFile]:
        """Finish and verify both files; path relative to the run directory -> bytes and hash."""
        projections = self._writer.close()
        path, moments = self._moments.save(self._run_dir, self._task.shard, self._task.attempt)
        return {self._writer.path: projections, path: moments}

    def abort(self) -> None:
        """Remove both files, as far as they were written."""
        self._writer.abort()
        self._run_dir.storage.remove(self._run_dir.moments_path(self._task.shard.id, self._task.attempt))


class _Clock:
    """Seconds of one attempt by stage. Two threads add to it without a lock, since each stage is timed by only one."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def elapsed(self) -> float:
        """Seconds since the attempt began."""
        return time.perf_counter() - self._started

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def time(self, stage: str, call: Callable[[], _T]) -> _T:
        """`call()`, its seconds counted under `stage`."""
        before = time.perf_counter()
        try:
            return call()
        finally:
            self.add(stage, time.perf_counter() - before)


def _batches(feed: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    """Successive samples in lists with `size` decoded images each, and at most 4 `size` samples.

    Samples without an image count only towards the second limit, so that the model's batches stay full.
    """
    batch: list[Sample] = []
    images = 0
    for sample in feed:
        batch.append(sample)
        images += sample.status == OK
        if images == size or len(batch) >= 4 * size:
            yield batch
            batch, images = [], 0
    if batch:
        yield batch


def _commit_record(
    task: Task,
    files: dict[str, StoredFile],
    run_files: dict[str, StoredFile],
    report: ReadReport,
    output: _Output,
    clock: _Clock,
    host: str,
) -> CommitRecord:
    counts = dict(output.counts)
    return CommitRecord(
        shard_id=task.shard.id,
        url=task.shard.url,
        attempt=task.attempt,
        files=files,
        run_files=run_files,
        rows=sum(counts.values()),
        ok=counts.pop(OK, 0),
        skipped=counts,
        details={**report.details, **output.details},
        notes=report.notes,
        truncated=report.truncated,
        input_size=task.shard.size,
        input_etag=task.shard.etag,
        input_sha256=report.sha256,
        generation=task.generation,
        bytes_good=report.bytes_good,
        missing_attributes=report.missing,
        bad_attributes=report.bad,
        attribute_kinds=report.kinds,
        timings={**clock.seconds, "total": clock.elapsed()},
        worker=host,
    )


def _tower_facts(decomposer: Decomposer) -> dict[str, object]:
    """The tower's description for run.json, as plain JSON values."""
    tower = decomposer.tower
    names = ("family", "layers", "heads", "head_dim", "width", "embed_dim", "tokens", "grid", "image_size", "pooling")
    return {name: list(value) if isinstance(value := getattr(tower, name), tuple) else value for name in names}
