"""Shards at both ends: very many of two images, and one of a million; real reading and writing, no model.

    python benchmarks/extremes.py [--only tiny|huge] [--shards 3000] [--images 1000000] [--folder DIR]

tiny     a job over shards of two images, then the run read: seconds a shard, bytes a shard beside its rows, peak memory
huge     a job over one shard of a million images: seconds, peak memory, and the same for a tenth, so that growth shows

The worker is the real one, with pictures that are not decoded and vectors that are random: what is measured is reading,
the queue, writing, commits and the memory that they take. Each part runs in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit.config import DecodeConfig, ExecutionConfig, FieldsConfig, JobConfig, ModelConfig
from clipaudit.job.driver import Reporter, run_job
from clipaudit.job.engine_local import LocalPool
from clipaudit.job.fields import fields_of
from clipaudit.job.protocol import WorkerFacts
from clipaudit.job.staging import Batch
from clipaudit.job.worker import ShardWorker
from clipaudit.retrieval.kinds import peak_bytes
from clipaudit.run.basis import write_basis
from clipaudit.run.directory import RunDirectory
from clipaudit.run.projections import SCALARS
from clipaudit.run.reader import Run
from clipaudit.run.upkeep import status
from clipaudit.schema import OK, Sample
from clipaudit.shards.decoder import DecodedImage
from tests.make_runs import make_basis, tower_spec

SPEC = tower_spec(layers=12, heads=8, head_dim=32, embed_dim=256, last=2)
PIXELS = np.zeros((1, 1, 3), np.uint8)
BLOCK = 512
PICTURE = b"\xff\xd8" + bytes(498)


def member(name: str, data: bytes) -> bytes:
    """A tar member: its header and its data, padded."""
    head = bytearray(
        struct.pack(
            "100s8s8s8s12s12s8sc", name.encode(), b"0000644", b"0", b"0", b"%011o" % len(data), b"0", b" " * 8, b"0"
        )
    )
    head += bytes(BLOCK - len(head))
    head[257:265] = b"ustar\x0000"
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + data + bytes(-len(data) % BLOCK)


def write_shard(path: Path, first: int, images: int) -> None:
    """A tar of `images` samples, each a picture's bytes and a class number."""
    with path.open("wb") as file:
        for number in range(first, first + images):
            file.write(member(f"{number:09d}.jpg", PICTURE) + member(f"{number:09d}.cls", b"%d" % (number % 10)))
        file.write(bytes(2 * BLOCK))


class Worker(ShardWorker):
    """The real worker with random vectors in place of a model."""

    def __init__(self, config: JobConfig, cancel: threading.Event) -> None:
        self._config, self._cancel = config, cancel
        self._run_dir = RunDirectory(config.out)
        self._fields, _ = fields_of(config, self._run_dir)
        self._layers = (10, 11)
        self._decoder = lambda data: DecodedImage(image=PIXELS, width=1, height=1, phash=0)
        self.progressed_at, self.samples_done = 0.0, 0
        self._basis_is_written, self._run_files = False, {}
        self._random = np.random.default_rng(0).normal(0, 0.05, (512, 256 + 16 * 32 + 3)).astype(np.float32)
        tower = {"pooling": "token", "width": 256}
        model = {"name": "none", "fingerprint": "feed", "preprocess": {}, "tower": tower}
        self.facts = WorkerFacts(model=model, table=SPEC, host="here", device="none")

    def _write_basis(self) -> None:
        if not self._basis_is_written:
            write_basis(self._run_dir, make_basis(SPEC), {"tower": "none"})
            self._run_files, self._basis_is_written = self._run_dir.run_files(), True

    def _submit(self, samples: list[Sample]) -> Batch | None:
        rows = self._random[: sum(sample.status == OK for sample in samples)]
        results = {"embedding": rows[:, :256], "heads": rows[:, 256:-3].reshape(len(rows), 16, 32)}
        results |= {name: np.abs(rows[:, number - 3]) * 1e-7 for number, name in enumerate(SCALARS)}
        return Random(results)  # type: ignore[return-value]


class Random:
    """What a Batch gives, at once."""

    seconds = 0.0

    def __init__(self, results: dict[str, np.ndarray]) -> None:
        self._results = results

    def wait(self) -> dict[str, np.ndarray]:
        """The results."""
        return self._results

    def hashes(self) -> list[int]:
        """None: every image has one."""
        return []


class CheapPool(LocalPool):
    """The local engine with such a worker."""

    def start(self) -> None:
        """Start the worker."""
        self._future = self._executor.submit(Worker, self._config, self._cancel)


def job(folder: Path, batch: int) -> None:
    config = JobConfig(
        shards=(f"{folder}/data/*.tar",),
        out=str(folder / "run"),
        model=ModelConfig(batch_size=batch),
        fields=FieldsConfig(label="cls"),
        decode=DecodeConfig(decode_threads=1),
        execution=ExecutionConfig(engine="local"),
    )
    run_job(config, CheapPool(config), Reporter(), threading.Event())


def timed(call: object) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()  # type: ignore[operator]
    return time.perf_counter() - wall, time.process_time() - cpu


def tiny(folder: Path, shards: int) -> None:
    (folder / "data").mkdir()
    for number in range(shards):
        write_shard(folder / f"data/{number:06d}.tar", 2 * number, 2)
    wall, cpu = timed(lambda: job(folder, 32))
    print(f"  {shards:,} shards of two images: {1000 * wall / shards:.1f} ms a shard, cpu {1000 * cpu / shards:.1f} ms")
    result = status(str(folder / "run"))
    beside = result.bytes_stored / shards - 2 * SPEC.vector_bytes
    print(f"  {beside / 1024:.0f} KiB a shard stored beside its vectors, {SPEC.vector_bytes} bytes an image")
    run = Run(str(folder / "run"))
    for name, call in (
        ("commit records", lambda: run.records),
        ("one head of all images", lambda: run.heads("L11H00")),
        ("moments", run.moments),
        ("labels", run.labels),
    ):
        wall, cpu = timed(call)
        print(f"  read {name:24} {1000 * wall / shards:.2f} ms a shard, cpu {1000 * cpu / shards:.2f} ms")
    print(f"  peak memory {peak_bytes() / 2**20:.0f} MiB")


def huge(folder: Path, images: int) -> None:
    (folder / "data").mkdir()
    write_shard(folder / "data/000000.tar", 0, images)
    wall, cpu = timed(lambda: job(folder, 256))
    peak = peak_bytes() / 2**20
    print(f"  one shard of {images:,} images: {wall:.0f} s, cpu {cpu:.0f} s, peak memory {peak:.0f} MiB")
    run = Run(str(folder / "run"))
    wall, _ = timed(lambda: run.heads("L11H00"))
    rows = sum(batch.num_rows for batch in run.batches(["L11H00"]))
    print(f"  one head of {rows:,} images read in {wall:.1f} s; peak memory {peak_bytes() / 2**20:.0f} MiB")


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--shards", type=int, default=3000)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--only", choices=("tiny", "huge"))
    parser.add_argument("--part", help="for the processes that this one starts")
    options = parse(parser, shards=50, images=2000)
    if options.part:
        name, size = options.part.split(":")
        place = Path(tempfile.mkdtemp(prefix="extremes", dir=options.folder))
        try:
            (tiny if name == "tiny" else huge)(place, int(size))
        finally:
            shutil.rmtree(place)
        return
    parts = [("tiny", options.shards)] * (options.only != "huge")
    parts += [("huge", options.images // 10), ("huge", options.images)] * (options.only != "tiny")
    for name, size in parts:
        command = [sys.executable, __file__, "--part", f"{name}:{size}", "--folder", str(options.folder)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})


if __name__ == "__main__":
    main()
