"""The store's figures: rows written a second, one head read, bytes an image; beside fixed-size lists.

python benchmarks/store.py            every table, about two minutes
python benchmarks/store.py --smoke    a hundredth of the rows, seconds, to see that it runs
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit.run.directory import RunDirectory, new_attempt
from clipaudit.run.projections import ProjectionWriter
from clipaudit.run.reader import Run
from clipaudit.schema import TableSpec
from tests.make_runs import make_manifest, make_samples, make_shard, make_vectors, tower_spec, write_attempt

B16 = tower_spec(layers=12, heads=12, head_dim=64, embed_dim=512)
TOWERS = {
    "ViT-B-16": (B16, 7.6),
    "ViT-L-14": (tower_spec(layers=24, heads=16, head_dim=64, embed_dim=768), 10.1),
    "ViT-H-14": (tower_spec(layers=32, heads=16, head_dim=80, embed_dim=1024), 12.7),
}
ONE_HEAD = TableSpec(heads=("L11H00",), head_dim=64, embed_dim=512, label_kind="int")


def seconds_of(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median and best of some runs, in seconds."""
    times = []
    for _ in range(repeats):
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return statistics.median(times), min(times)


def vectors_only(path: Path, vectors: dict[str, np.ndarray], group: int) -> None:
    """The bare file format: float16 arrays in memory to uncompressed fixed_size_binary columns."""
    schema = pa.schema([pa.field(name, pa.binary(2 * values.shape[1])) for name, values in vectors.items()])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False, write_statistics=False) as writer:
        arrays = [
            pa.FixedSizeBinaryArray.from_buffers(field.type, len(v), [None, pa.py_buffer(v)])
            for field, v in zip(schema, vectors.values(), strict=True)
        ]
        writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=group)


def fixed_lists(path: Path, vectors: dict[str, np.ndarray], group: int) -> None:
    """The baseline: the same numbers as fixed-size lists of float16."""
    arrays = [pa.FixedSizeListArray.from_arrays(pa.array(v.reshape(-1)), v.shape[1]) for v in vectors.values()]
    table = pa.Table.from_arrays(arrays, names=list(vectors))
    with pq.ParquetWriter(
        path, table.schema, compression="none", use_dictionary=False, write_statistics=False
    ) as writer:
        writer.write_table(table, row_group_size=group)


def through_writer(
    run_dir: RunDirectory, spec: TableSpec, samples: list, vectors: dict, scalars: dict, batch: int
) -> None:
    """Everything that a worker's writer does: rounding, metadata, hash, durable close, verification."""
    writer = ProjectionWriter(run_dir, make_shard(0), new_attempt(), spec, {"fingerprint": "0"})
    for start in range(0, len(samples), batch):
        window = slice(start, start + batch)
        writer.write(
            samples[window], {n: v[window] for n, v in vectors.items()}, {n: v[window] for n, v in scalars.items()}
        )
    writer.close()
    writer.abort()


def writing(folder: Path, rows: int, repeats: int) -> None:
    print(f"\nWriting {rows:,} rows (median of {repeats}, best in brackets)")
    run_dir = RunDirectory(str(folder / "writing"))
    run_dir.create_or_resume(make_manifest(B16, 1))
    samples = make_samples(rows)
    for title, spec in (("one head of 64", ONE_HEAD), ("B-16: 48 heads of 64 and the embedding", B16)):
        vectors, scalars = make_vectors(spec, rows)
        halves = {name: values.astype(np.float16) for name, values in vectors.items()}
        head = {"L11H00": halves["L11H00"]} if spec is ONE_HEAD else halves
        group = 32 * 2**20 // (spec.vector_bytes + 256)
        path = folder / "a.parquet"
        ways: dict[str, Callable[[], object]] = {
            "file format alone, fixed_size_binary": partial(vectors_only, path, head, group),
            "file format alone, fixed-size lists": partial(fixed_lists, path, head, group),
            "our writer, float16 in, batches of 1024": partial(
                through_writer, run_dir, spec, samples, halves, scalars, 1024
            ),
            "our writer, float32 in, batches of 1024": partial(
                through_writer, run_dir, spec, samples, vectors, scalars, 1024
            ),
            "our writer, float32 in, batches of 32": partial(
                through_writer, run_dir, spec, samples, vectors, scalars, 32
            ),
        }
        for way, call in ways.items():
            call()
            median, best = seconds_of(call, repeats)
            print(f"  {title:40} {way:42} {rows / median:>11,.0f} rows/s ({rows / best:,.0f})")


def reading(folder: Path, rows: int, repeats: int) -> None:
    shards, each = 10, rows // 10
    url = str(folder / "reading")
    run_dir = RunDirectory(url)
    manifest = make_manifest(B16, shards)
    run_dir.create_or_resume(manifest)
    samples = make_samples(each)
    values, scalars = make_vectors(B16, each)
    for shard in manifest.shards:
        run_dir.commit(write_attempt(run_dir, shard, B16, samples, values, scalars, batch=1024))
    lists = [folder / f"lists-{number}.parquet" for number in range(shards)]
    for path in lists:
        fixed_lists(path, {name: v.astype(np.float16) for name, v in values.items()}, 4400)
    run = Run(url)
    print(f"\nReading one head of {rows:,} images, {shards} shards of B-16 rows, files in the page cache")
    ways: dict[str, Callable[[], object]] = {
        "Run.heads, values alone": lambda: run.heads("L11H05", columns=()),
        "Run.heads, with key and label": lambda: run.heads("L11H05"),
        "the same, a new Run each time": lambda: Run(url).heads("L11H05", columns=()),
        "all of a label's moments of 4 heads": lambda: run.moments(run.head_labels[:4], label=1),
        "all moments": run.moments,
        "fixed-size lists to numpy": lambda: [
            pq.read_table(path, columns=["L11H05"])["L11H05"].combine_chunks().flatten().to_numpy() for path in lists
        ],
    }
    for way, call in ways.items():
        call()
        median, best = seconds_of(call, repeats)
        print(f"  {way:40} {1000 * median:8.1f} ms ({1000 * best:.1f})")


def sizes(folder: Path, rows: int) -> None:
    print(f"\nBytes an image, all included; last four layers, keys of 20 bytes, integer labels, {rows:,} a shard")
    for name, (spec, limit) in TOWERS.items():
        for labels in (1000, 2):
            run_dir = RunDirectory(str(folder / f"{name}-{labels}"))
            run_dir.create_or_resume(make_manifest(spec, 1))
            samples = make_samples(rows, label=lambda i, n=labels: i % n)
            record = write_attempt(run_dir, make_shard(0), spec, samples, *make_vectors(spec, rows), batch=1024)
            run_dir.commit(record)
            table, moments = (record.files[path].bytes for path in (record.projections, record.moments))
            commit = run_dir.storage.size(run_dir.commit_path(0))
            total = table + moments + commit
            print(
                f"  {name}, {labels:4} labels: {total / rows / 1000:6.2f} of {limit} KB: vectors {spec.vector_bytes},"
                f" metadata {table / rows - spec.vector_bytes:.0f}, moments {moments / rows:.0f},"
                f" commit {commit / rows:.1f} bytes"
            )


def committing(folder: Path, shards: int) -> None:
    print(f"\n{shards:,} commit records")
    run_dir = RunDirectory(str(folder / "commits"))
    run_dir.create_or_resume(make_manifest(ONE_HEAD, 1))
    samples = make_samples(10)
    record = write_attempt(run_dir, make_shard(0), ONE_HEAD, samples, *make_vectors(ONE_HEAD, 10))
    start = time.perf_counter()
    for number in range(shards):
        names = (make(number, record.attempt) for make in (run_dir.projections_path, run_dir.moments_path))
        files = dict(zip(names, (record.files[name] for name in (record.projections, record.moments)), strict=True))
        run_dir.storage.create(run_dir.commit_path(number), replace(record, shard_id=number, files=files).to_json())
    print(f"  committed at {shards / (time.perf_counter() - start):,.0f} a second")
    for way, call in (("listed", run_dir.committed_ids), ("read and validated", run_dir.committed)):
        median, _ = seconds_of(call, 3)
        print(f"  {way:20} {median:.2f} s, {shards / median:,.0f} a second")


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--folder", help="where to write; default: the system's temporary directory")
    parser.add_argument("--only", choices=["writing", "reading", "sizes", "committing"])
    options = parse(parser)
    part = 100 if options.smoke else 1
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        tables: dict[str, Callable[[], None]] = {
            "writing": lambda: writing(folder, 30_000 // part, 3),
            "reading": lambda: reading(folder, 100_000 // part, 7),
            "sizes": lambda: sizes(folder, 10_000 // part),
            "committing": lambda: committing(folder, 10_000 // part),
        }
        for title, table in tables.items():
            if options.only in (None, title):
                table()


if __name__ == "__main__":
    main()
