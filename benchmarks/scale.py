"""The tables of docs/scale.md: bytes, hours and money for a billion images, from measured figures and assumptions.

    python benchmarks/scale.py            prints the tables as Markdown; a test holds docs/scale.md against them

Constants below say where each comes from; sizes that the code itself states (vectors, indexes) are taken from it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options import parse, parser_for
from scheduler import record_of, shards_of

from clipaudit.job.protocol import Task
from clipaudit.retrieval.kinds import build_bytes, number_of_lists
from clipaudit.retrieval.vector_index import Kind
from tests.make_runs import tower_spec

IMAGES = 10**9
IMAGES_A_SHARD = 10_000
SHARDS = IMAGES // IMAGES_A_SHARD
L14 = tower_spec(layers=24, heads=16, head_dim=64, embed_dim=768)

EXAMPLE = Task(shard=shards_of(1)[0], attempt="0123456789ab", run_fingerprint="", max_seconds=1.0)

# measured, see docs/scale.md for the commands
STORED_BYTES = 9_870  # an image, all included
COMMIT_BYTES = len(record_of(EXAMPLE).to_json())  # a shard
MANIFEST_BYTES = 141  # a shard, in run.json
PHOTO_BYTES = 184_000  # a COCO photograph of 640 pixels, as in the shards that decoding was measured on
DECODE_SECONDS = 0.0027  # CPU seconds to turn such a photograph into 224 pixels

# assumptions
INPUT_BYTES = 30_000  # an image
STORE_DOLLARS = 0.023  # a GB and month
PUT_DOLLARS = 5e-6
GET_DOLLARS = 4e-7
READ_BYTES = 5 * 2**20  # a request
SPEEDS = (250, 500, 1000, 2000, 4000)  # images a second and GPU
HOURLY_DOLLARS = (0.5, 1.0, 2.0, 4.0)  # a GPU with its share of CPUs


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    names = list(head)
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def size(number: float) -> str:
    for unit, value in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= value:
            return f"{number / value:,.1f} {unit}"
    return f"{number / 1e3:,.1f} KB"


def stored() -> None:
    vectors = L14.vector_bytes
    rows = [
        ("shards of images made small for training", f"{INPUT_BYTES:,} (assumed)", size(INPUT_BYTES * IMAGES)),
        ("shards of COCO photographs", f"{PHOTO_BYTES:,}", size(PHOTO_BYTES * IMAGES)),
        ("vectors: 64 heads of the last four layers and the embedding", f"{vectors:,}", size(vectors * IMAGES)),
        ("the whole run: vectors, metadata, moments, commits", f"{STORED_BYTES:,}", size(STORED_BYTES * IMAGES)),
        ("of these, one head", f"{2 * L14.head_dim}", size(2 * L14.head_dim * IMAGES)),
        (f"{SHARDS:,} commit records", f"{COMMIT_BYTES / IMAGES_A_SHARD:.1f}", size(COMMIT_BYTES * SHARDS)),
        ("run.json", f"{MANIFEST_BYTES / IMAGES_A_SHARD:.3f}", size(MANIFEST_BYTES * SHARDS)),
    ]
    table(("what", "bytes an image", "a billion images"), rows)


def indexes() -> None:
    lists = number_of_lists(IMAGES)
    kinds = (
        ("flat: exact", Kind(name="flat")),
        ("hnsw: a graph", Kind(name="hnsw", links=32)),
        ("ivf: lists of float16 residuals", Kind(name="ivf-sq", lists=lists)),
        ("ivf-pq: lists of product codes", Kind(name="ivf-pq", lists=lists, code_bytes=L14.head_dim // 2)),
    )
    rows = []
    for name, kind in kinds:
        each = kind.bytes_per_vector(L14.head_dim)
        memory = build_bytes(kind, IMAGES, L14.head_dim)
        rows.append((name, f"{each:,.0f}", size(each * IMAGES), size(64 * each * IMAGES), size(memory)))
    table(("kind", "bytes a vector", "one head", "64 heads", "memory to build one"), rows)


def hours() -> None:
    rows = []
    for speed in SPEEDS:
        gpu_hours = IMAGES / speed / 3600
        wall = [f"{gpu_hours / gpus:,.0f} h" for gpus in (1, 8, 64)]
        money = [f"{gpu_hours * price:,.0f} $" for price in HOURLY_DOLLARS]
        rows.append((f"{speed:,}", f"{gpu_hours:,.0f}", *wall, f"{speed * DECODE_SECONDS:.1f}", *money))
    prices = [f"at {price:g} $/h" for price in HOURLY_DOLLARS]
    head = ("images/s a GPU", "GPU hours", "1 GPU", "8 GPUs", "64 GPUs", "CPUs to decode, a GPU", *prices)
    table(head, rows)


def store() -> None:
    reads = SHARDS * -(-INPUT_BYTES * IMAGES_A_SHARD // READ_BYTES)
    writes = SHARDS * (STORED_BYTES * IMAGES_A_SHARD // (50 * 2**20) + 5)  # parts, moments, mark, commit
    monthly = STORED_BYTES * IMAGES / 1e9 * STORE_DOLLARS
    rows = [
        ("reading the shards", f"{reads:,} GET", f"{reads * GET_DOLLARS:,.0f} $ once"),
        ("writing the run", f"{writes:,} PUT", f"{writes * PUT_DOLLARS:,.0f} $ once"),
        ("keeping the run", size(STORED_BYTES * IMAGES), f"{monthly:,.0f} $ a month"),
    ]
    table(("store", "how much", "price"), rows)


def main() -> None:
    parse(parser_for(__doc__))  # no sizes to choose: --smoke prints the same tables
    for part in (stored, indexes, hours, store):
        part()


if __name__ == "__main__":
    main()
