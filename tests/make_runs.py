"""Small synthetic runs for tests and benchmarks: random numbers in the real writer's files, no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from clipaudit.config import LabelMoments
from clipaudit.job.protocol import Task
from clipaudit.run.basis import write_basis
from clipaudit.run.directory import RunDirectory, new_attempt
from clipaudit.run.growth import Growth
from clipaudit.run.moments_accumulator import MomentsAccumulator
from clipaudit.run.projections import ProjectionWriter
from clipaudit.run.records import CommitRecord, Manifest
from clipaudit.schema import OK, UNDECODABLE, Label, Sample, Shard, TableSpec, head_label

SPEC = TableSpec(
    heads=("L00H00", "L00H01", "L01H00", "L01H01"),
    head_dim=4,
    embed_dim=8,
    label_kind="int",
    attributes=("place",),
    caption=True,
    components=("mlp_L01",),
)
MEMORY = 16 * 10**9
"""For indexes built in the tests' own process, whatever that has grown to."""
TIMES = ("2026-10-01T10:00:00+00:00", "2026-11-01T10:00:00+00:00", "2026-12-01T10:00:00+00:00")


def tower_spec(layers: int, heads: int, head_dim: int, embed_dim: int, last: int = 4) -> TableSpec:
    """The table of a tower's last layers, as `clipaudit audit` makes it for integer labels."""
    labels = tuple(head_label(layer, head) for layer in range(layers - last, layers) for head in range(heads))
    return TableSpec(heads=labels, head_dim=head_dim, embed_dim=embed_dim, label_kind="int")


def make_shard(number: int, size: int = 1000) -> Shard:
    return Shard(id=number, url=f"/data/train-{number:06d}.tar", size=size, etag=f"etag-{number}")


def make_manifest(spec: TableSpec = SPEC, shards: int | tuple[Shard, ...] = 2, **changes: Any) -> Manifest:
    facts: dict[str, Any] = {
        "clipaudit_version": "0.1.0",
        "identity": {"model": "ViT-B-32", "layers": "4", "precision": "fp32"},
        "fingerprint": "0123456789abcdef",
        "model": {"fingerprint": "feed", "name": "ViT-B-32"},
        "packages": {"numpy": np.__version__},
        "table": spec,
        "shards": tuple(map(make_shard, range(shards))) if isinstance(shards, int) else shards,
    }
    return Manifest(**{**facts, **changes})


Attributes: TypeAlias = Callable[[int], dict[str, str | None]]


def places(index: int) -> dict[str, str | None]:
    return {"place": None if index % 7 == 0 else ("land", "water")[index % 2]}


def make_samples(
    rows: int,
    failures: Sequence[int] = (),
    label: Callable[[int], Label] = lambda i: i % 3,
    attributes: Attributes = places,
) -> list[Sample]:
    """Samples with realistic metadata; those whose positions are in `failures` could not be decoded."""
    samples = []
    for index in range(rows):
        bad = index in failures
        samples.append(
            Sample(
                key=f"train/{index:014d}",
                index=index,
                status=UNDECODABLE if bad else OK,
                label=label(index),
                caption=None if index % 5 == 0 else f"a picture, number {index}",
                attributes=attributes(index),
                width=None if bad else 400 + index % 200,
                height=None if bad else 300 + index % 100,
                phash=None if bad else int(np.random.default_rng(index).integers(-(2**63), 2**63)),
                offset=512 + 30_720 * index,
                nbytes=25_000 + index % 5000,
            )
        )
    return samples


def make_vectors(
    spec: TableSpec, rows: int, seed: int = 0
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]:
    """Vectors and scalars of `rows` ok samples; each column has its own mean."""
    rng = np.random.default_rng(seed)
    vectors = {
        name: (rng.standard_normal((rows, dim), dtype=np.float32) / 30 + 0.01 * number).astype(np.float32)
        for number, (name, dim) in enumerate(spec.vectors.items())
    }
    scalars = {
        "scale": rng.uniform(0.5, 2, rows).astype(np.float32),
        "norm": rng.uniform(5, 15, rows).astype(np.float32),
        "remainder": rng.uniform(1e-8, 5e-7, rows).astype(np.float32),
    }
    return vectors, scalars


def write_attempt(
    run_dir: RunDirectory,
    shard: Shard,
    spec: TableSpec,
    samples: list[Sample],
    vectors: Mapping[str, npt.NDArray[Any]],
    scalars: Mapping[str, npt.NDArray[Any]],
    *,
    label_moments: LabelMoments = "auto",
    batch: int = 32,
    row_group_bytes: int = 32 * 2**20,
    task: Task | None = None,
) -> CommitRecord:
    """What a worker does with a shard's results; the record that it would hand to the driver.

    With `task` the attempt is that of a driver.
    """
    attempt = new_attempt() if task is None else task.attempt
    run_dir.begin_attempt(shard.id, attempt, "test")
    footer = {"fingerprint": "0123456789abcdef" if task is None else task.run_fingerprint}
    writer = ProjectionWriter(run_dir, shard, attempt, spec, footer, row_group_bytes=row_group_bytes)
    moments = MomentsAccumulator(spec, label_moments)
    done = 0
    for start in range(0, len(samples), batch):
        piece = samples[start : start + batch]
        good = [sample for sample in piece if sample.status == OK]
        window = slice(done, done + len(good))
        values = {name: array[window] for name, array in vectors.items()}
        kept = writer.write(piece, values, {name: array[window] for name, array in scalars.items()})
        labels = [sample.label for sample in good if sample.status == OK] if spec.label_kind else None
        moments.update({name: array[kept] for name, array in values.items()}, labels)
        done += len(good)
    files = {writer.path: writer.close()}
    path, stored = moments.save(run_dir, shard, attempt)
    files[path] = stored
    counts = dict(writer.counts)
    return CommitRecord(
        shard_id=shard.id,
        url=shard.url,
        attempt=attempt,
        run_files=run_dir.run_files(),
        files=files,
        rows=len(samples),
        ok=counts.pop(OK, 0),
        skipped=counts,
        details={name: [f"0000: {name}"] for name in counts},
        input_size=shard.size,
        input_etag=shard.etag,
        bytes_good=shard.size,
        timings={"total": 2.0, "model": 1.5},
        worker="test",
    )


def make_basis(spec: TableSpec, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    shape = (1, len(spec.heads))
    frames = [np.linalg.qr(rng.standard_normal((spec.embed_dim, spec.head_dim)))[0].T for _ in spec.heads]
    return {
        "Q": np.stack(frames).reshape(*shape, spec.head_dim, spec.embed_dim).astype(np.float32, order="C"),
        "T": rng.standard_normal((*shape, spec.head_dim, spec.head_dim)).astype(np.float32),
        "norm_bias": rng.standard_normal(spec.embed_dim).astype(np.float32),
    }


def make_run(
    url: str,
    spec: TableSpec = SPEC,
    shards: int = 2,
    rows: int = 50,
    failures: Sequence[int] = (0, 7, 49),
    label: Callable[[int], Label] = lambda i: i % 3,
    attributes: Attributes = places,
    **options: Any,
) -> RunDirectory:
    """A complete run at `url`; shard n's vectors are `make_vectors(spec, ok rows, seed=n)`."""
    run_dir = RunDirectory(url)
    manifest = make_manifest(spec, shards)
    run_dir.create_or_resume(manifest)
    write_basis(run_dir, make_basis(spec), {"tower": "test"})
    for shard in manifest.shards:
        samples = make_samples(rows, failures, label, attributes)
        good = sum(sample.status == OK for sample in samples)
        record = write_attempt(run_dir, shard, spec, samples, *make_vectors(spec, good, shard.id), **options)
        assert run_dir.commit(record)
    return run_dir


def grown(directory: RunDirectory, sizes: Sequence[int], times: Sequence[str] = TIMES) -> RunDirectory:
    """The same run as if it had been made in steps of these numbers of shards; each is committed an hour later."""
    manifest = directory.open()
    starts = [sum(sizes[:step]) for step in range(len(sizes))]
    parts = [manifest.shards[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    first = replace(manifest, shards=parts[0], created=times[0])
    directory.storage.replace("run.json", first.to_json())
    for number, part in enumerate(parts[1:], 1):
        growth = Growth(generation=number, shards=part, clipaudit_version="0.1.0", created=times[number])
        assert directory.grow(growth)
    files = directory.run_files()
    for number, part in enumerate(parts):
        for shard in part:
            record = directory.read_commit(shard.id)
            assert record is not None
            changed = replace(
                record,
                generation=number,
                committed_at=times[number].replace("T10", "T11"),
                run_files={name: files[name] for name in record.run_files},
            )
            directory.storage.replace(directory.commit_path(shard.id), changed.to_json())
    return directory
