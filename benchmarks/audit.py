"""A spurious-cue audit of a synthetic run: seconds, peak memory, and how both grow with the rows.

python benchmarks/audit.py                    62,500, 250,000 and 1,000,000 rows x 48 heads x 20 directions x 10 classes
python benchmarks/audit.py --smoke            a thousand rows, to see that it runs
python benchmarks/audit.py --folder DIR       write the runs there once, and keep them

Each audit is a process of its own with two threads. The run has a shortcut (`place` goes with one class, and a head
that sees it adds to that class's score), 2 % of near duplicates, and a pool of 6,000 texts. It should be confirmed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for

from clipaudit.cues import AuditOptions, audit_cues
from clipaudit.heads.texts.pool import CONTEXT, CORE, TextPool
from clipaudit.run.basis import write_basis
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.schema import Sample, TableSpec, head_label
from tests.make_runs import make_basis, make_manifest, write_attempt

HEADS = tuple(head_label(layer, head) for layer in range(8, 12) for head in range(12))
DIM, WIDE, CLASSES, SHARD = 64, 512, 10, 62_500
SPEC = TableSpec(heads=HEADS, head_dim=DIM, embed_dim=WIDE, label_kind="int", attributes=("place",))
SIZES = (62_500, 250_000, 1_000_000)
LIMIT_SECONDS, LIMIT_BYTES = 150, 4 * 2**30


class Texts:
    """A vector of its own for every text, from its name."""

    def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(T, D) unit."""
        found = np.stack([np.random.default_rng(zlib.crc32(text.encode())).standard_normal(WIDE) for text in texts])
        unit: npt.NDArray[np.float32] = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def classes(self, names: Sequence[str], templates: Sequence[str]) -> npt.NDArray[np.float32]:
        """(C, D) unit."""
        return self.vectors(names)


def pool(texts: int = 6000) -> TextPool:
    return TextPool(
        texts=tuple(f"text {number}" for number in range(texts)),
        properties=tuple(f"property {number % 20}" for number in range(texts)),
        kinds=tuple(CONTEXT if number % 2 else CORE for number in range(texts)),
        source="synthetic",
    )


def write_run(where: Path, rows: int, shard_rows: int = SHARD) -> None:
    """A run of `rows` images: place goes with class 0 at 90 %, two heads see it, one of them as if it were class 0."""
    directory = RunDirectory(str(where))
    manifest = make_manifest(SPEC, -(-rows // shard_rows))
    directory.create_or_resume(manifest)
    basis = make_basis(SPEC)
    write_basis(directory, basis, {"tower": "synthetic"})
    toward = Texts().classes([f"class {k}" for k in range(CLASSES)], ())
    Q = basis["Q"].reshape(len(HEADS) * DIM, WIDE)
    misled = Q[5 * DIM : 6 * DIM] @ toward[0]
    misled /= np.linalg.norm(misled)
    for shard in manifest.shards:
        count = min(shard_rows, rows - shard.id * shard_rows)
        rng = np.random.default_rng(shard.id)
        labels = rng.integers(0, CLASSES, count)
        place = np.where(labels == 0, rng.random(count) < 0.9, rng.random(count) < 0.1).astype(np.int64)
        hashes = rng.integers(-(2**63), 2**63, count)
        hashes[: count // 50] = hashes[count // 50 : 2 * (count // 50)]
        vectors = {name: rng.standard_normal((count, DIM), dtype=np.float32) / 200 for name in HEADS}
        vectors[HEADS[5]] += 0.15 * place[:, None] * misled
        vectors[HEADS[20]][:, 1] += 0.08 * place
        embedding = rng.standard_normal((count, WIDE), dtype=np.float32) / 40 + 0.1 * toward[labels]
        for number, name in enumerate(HEADS):
            embedding += vectors[name] @ Q[number * DIM : (number + 1) * DIM]
        samples = [
            Sample(
                key=f"{shard.id}/{index:08d}",
                index=index,
                label=int(labels[index]),
                attributes={"place": ("land", "water")[place[index]]},
                width=224,
                height=224,
                phash=int(hashes[index]),
                offset=512 + 30_720 * index,
                nbytes=25_000,
            )
            for index in range(count)
        ]
        ones = np.ones(count, np.float32)
        scalars = {"scale": ones, "norm": ones, "remainder": ones * 1e-8}
        record = write_attempt(
            directory, shard, SPEC, samples, {"embedding": embedding, **vectors}, scalars, batch=4096
        )
        directory.commit(record)
        print(f"wrote shard {shard.id} of {where.name}", file=sys.stderr, flush=True)


def measure(where: Path) -> dict[str, Any]:
    """One audit, in this process."""
    classes = where.parent / "classes.txt"
    classes.write_text("".join(f"class {k}\n" for k in range(CLASSES)))
    run, began = Run(str(where)), time.monotonic()
    result = audit_cues(run, AuditOptions(classes=str(classes), attributes=("place",)), texts=Texts(), pool=pool())
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rows": result.data.rows,
        "tests": result.trust.tests,
        "directions": result.trust.directions,
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_gib": round(used.ru_maxrss * 1024 / 2**30, 2),
        "verdict": str(result.verdict),
        "finding": None if not result.findings else f"{result.findings[0].class_name}: {result.findings[0].cue.value}",
        "valid": result.trust.valid,
    }


def apart(where: Path, threads: int) -> dict[str, Any]:
    """The same in a process of its own, so that its peak is its own."""
    command = [sys.executable, __file__, "--measure", str(where)]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    found = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(found.stdout))


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="rows of each run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    asked = parse(parser, sizes=(500, 1000))
    if asked.measure is not None:
        print(json.dumps(measure(asked.measure)))
        return
    with tempfile.TemporaryDirectory(prefix="clipaudit-audit-") as scratch:
        folder = asked.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for size in asked.sizes:
            where = folder / f"run-{size}"
            if not where.exists():
                write_run(where, size, min(SHARD, size // 2))
            rows.append({**apart(where, asked.threads), "load": round(os.getloadavg()[0], 1)})
            print(json.dumps(rows[-1]), flush=True)
    last = rows[-1]
    if not asked.smoke:
        within = last["seconds"] <= LIMIT_SECONDS and last["peak_gib"] * 2**30 <= LIMIT_BYTES
        steps = itertools.pairwise(rows)
        slopes = [1e6 * (b["cpu_seconds"] - a["cpu_seconds"]) / (b["rows"] - a["rows"]) for a, b in steps]
        print(f"CPU microseconds per further row: {', '.join(f'{value:.0f}' for value in slopes)}")
        print(f"within the limits (seconds as they passed, with that load): {within}")


if __name__ == "__main__":
    main()
